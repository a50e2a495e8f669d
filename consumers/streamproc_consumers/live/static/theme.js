// Light or dark: as the system says, until the visitor says otherwise.

const KEY = "theme";
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage is forbidden: the system decides
  }
}

function apply() {
  const dark = (stored() ?? (system.matches ? "dark" : "light")) === "dark";
  root.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").setAttribute("aria-pressed", String(dark));
}

document.getElementById("theme").addEventListener("click", () => {
  const next = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // it lasts as long as the page
  }
  root.dataset.theme = next;
  document.getElementById("theme").setAttribute("aria-pressed", String(next === "dark"));
});
system.addEventListener("change", apply);
apply();
