// The HTTP API, and where it is. The shop needs nothing but the /v1 routes.

const TRIES = 2;
/** Sources of related products that say nothing of what is bought with them. */
const ALONE = new Set(["popular", "category", "brand", "text"]);

/** A request that was answered with an error, or not at all; the message is for people. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/**
 * Where things are: `config.json` beside the page, and `?api=` over it.
 * Addresses are relative to the page; `api` may be another origin that allows this one (CORS).
 */
export async function configuration() {
  const given = await json("config.json").catch(() => ({}));
  const asked = new URLSearchParams(location.search).get("api");
  const address = new URL(asked || given.api || "..", location.href);
  if (!/^https?:$/.test(address.protocol)) throw new ApiError(`The API's address ${address} is no web address.`, 0);
  return {
    api: address.href.replace(/\/$/, ""),
    key: given.apiKey || null,
    // The feed belongs to the process that the page came with; another API has none of ours.
    live: given.live && !asked ? new URL(given.live, location.href).href : null,
    catalogue: given.catalogue || "catalogue.json",
  };
}

export async function json(address, options) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch {
    throw new ApiError(await whyUnreached(new URL(address, location.href).origin), 0);
  }
  const body = await reply.json().catch(() => null);
  if (!reply.ok) throw new ApiError(body?.error || `The shop answered with ${reply.status}.`, reply.status);
  if (body === null) throw new ApiError(`${address} is no JSON.`, reply.status);
  return body;
}

/** Browsers do not tell a page that CORS kept an answer from it; but whether there is one, they do. */
async function whyUnreached(origin) {
  if (origin === location.origin) return "The shop cannot be reached.";
  const answers = await fetch(origin, { mode: "no-cors" }).then(() => true, () => false);
  if (!answers) return `The shop's API at ${origin} cannot be reached.`;
  return `The shop's API at ${origin} does not let this page call it: it has to allow ${location.origin} (streamproc api --cors-origin).`;
}

/** A random name; without TLS, browsers have no crypto.randomUUID. */
export function unique() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Api {
  constructor({ api, key }) {
    this.base = api;
    this.headers = key ? { "X-API-Key": key } : {};
    this.knownRelated = new Map();
  }

  personalized(userId, k, signal) {
    const query = new URLSearchParams({ userId, k, explain: "true" });
    return json(`${this.base}/v1/recommendations/personalized?${query}`, { headers: this.headers, signal });
  }

  /** Ids of what is bought with a product, the best first; asked once a product. */
  related(itemId) {
    if (!this.knownRelated.has(itemId)) {
      const query = new URLSearchParams({ itemId, k: 60 });
      const asked = json(`${this.base}/v1/recommendations/related?${query}`, { headers: this.headers })
        .then((reply) => (reply.fallback ? [] : reply.related.filter((item) => !ALONE.has(item.source)).map((item) => item.id)))
        .catch(() => {
          this.knownRelated.delete(itemId);
          return [];
        });
      this.knownRelated.set(itemId, asked);
    }
    return this.knownRelated.get(itemId);
  }

  /** Send one event, or several at once. A second try has the same key, so that it cannot count twice. */
  async send(events) {
    const headers = { ...this.headers, "Content-Type": "application/json", "Idempotency-Key": unique() };
    const body = JSON.stringify(events.length === 1 ? events[0] : events);
    for (let attempt = 1; ; attempt++) {
      try {
        return await json(`${this.base}/v1/events`, { method: "POST", headers, body });
      } catch (error) {
        const passes = error.status === 0 || error.status === 503;
        if (!passes || attempt === TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, 400));
      }
    }
  }
}
