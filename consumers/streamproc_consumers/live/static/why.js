// Why a product is in the list, in words: its source, the cart it goes with, or the feature that adds the most.

const SOURCES = {
  history: "you buy this often",
  popular: "popular now",
  trending: "trending now",
};

const ago = (days) => (days < 1 ? "today" : days < 2 ? "yesterday" : days < 14 ? `${Math.round(days)} days ago` : `${Math.round(days / 7)} weeks ago`);

/** What a feature's value says; null where it says nothing worth a chip. */
const FEATURES = {
  own_in_cart: (value) => (value > 0 ? "in your cart" : null),
  own_adds: (value) => (value > 0 ? "you added this before" : null),
  own_views: (value) => (value > 0 ? "you looked at this" : null),
  own_orders: (value) => (value > 1 ? `in ${value} of your orders` : null),
  own_order_share: (value) => (value > 0.5 ? "in most of your orders" : null),
  own_order_decay: (value) => (value > 1.5 ? "you buy this often" : null),
  own_streak: (value) => (value > 1 ? `in your last ${value} orders` : null),
  own_due: (value) => (value >= 0.8 && value < 3 ? "time to buy it again" : null),
  own_orders_since: (value) => (value === 0 ? "in your last order" : null),
  own_purchase_age_days: (value) => `bought ${ago(value)}`,
  own_place: (value) => (value < 3 ? "you had this just now" : null),
  item_share_7d: () => "popular this week",
  item_share_30d: () => "popular this month",
  item_rank: (value) => (value < 100 ? "one of the most bought" : null),
  item_repeat_rate: (value) => (value > 0.2 ? "often bought again" : null),
  item_trend: (value) => (value > 1.2 ? "rising this week" : null),
};

/** The sentence for a generator that only some bundles have. */
const GENERATORS = [
  [/^together/, "often bought together"],
  [/^next_orders/, "often bought next"],
  [/^next_views/, "often seen next"],
  [/^text/, "similar to what you like"],
  [/^(ease|ridge)/, "shoppers like you buy this"],
  [/^(encoder|session_knn)/, "fits this visit"],
  [/^category/, "of a kind you like"],
  [/^brand/, "of a brand you like"],
  [/.*/, "goes with what you like"],
];

/**
 * `item` as the API answers it with explain=true. `basket` are products in the cart or bought just now, the last one
 * first, each with the ids of what goes with it.
 */
export function why(item, basket, inCart) {
  if (inCart) return "in your cart";
  if (item.explored) return "something new for you";
  const own = (item.why?.sources ?? [item.source]).includes("history");
  if (!own) {
    const [beside] = basket.filter((product) => product.related.includes(item.id))
      .sort((a, b) => a.related.indexOf(item.id) - b.related.indexOf(item.id));
    if (beside) return `bought together with ${beside.name.toLowerCase()}`;
  }
  if (own) return said(item, "own_") ?? SOURCES.history;
  if (SOURCES[item.source]) return said(item, "item_") ?? SOURCES[item.source];
  return GENERATORS.find(([pattern]) => pattern.test(item.source))[1];
}

/** The words of the feature that adds the most, among those whose names begin so. */
function said(item, prefix) {
  for (const { feature, value, contribution } of item.why?.reasons ?? []) {
    const words = contribution > 0 && feature.startsWith(prefix) && value !== null ? FEATURES[feature]?.(value) : null;
    if (words) return words;
  }
  return null;
}
