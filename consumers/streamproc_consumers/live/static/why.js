// Why a product is in the list, in words: its source, the cart it goes with, or the feature that adds the most.

const SOURCES = {
  history: "you buy this often",
  popular: "popular now",
};

const FEATURES = {
  own_in_cart: "in your cart",
  own_adds: "you added this before",
  own_views: "you looked at this",
  own_orders: "you buy this often",
  own_order_share: "in most of your orders",
  own_order_decay: "you buy this often",
  own_streak: "in your last orders",
  own_due: "time to buy again",
  own_gap_orders: "you buy this regularly",
  own_interest: "you like this lately",
  own_orders_since: "you bought this lately",
  own_purchase_age_days: "you bought this lately",
  own_event_age_days: "you had this lately",
  own_place: "you had this lately",
  item_rank: "popular now",
  item_share_7d: "popular this week",
  item_share_30d: "popular this month",
  item_repeat_rate: "often bought again",
  item_trend: "rising this week",
  item_age_days: "new in the shop",
  item_price: "in your price range",
  price_ratio: "in your price range",
  sources: "fits in several ways",
};

/** The sentence for a generator that only some bundles have. */
const GENERATORS = [
  [/^together/, "often bought together"],
  [/^next_orders/, "often bought next"],
  [/^next_views/, "often seen next"],
  [/^text/, "similar to what you like"],
  [/^(ease|ridge)/, "shoppers like you buy this"],
  [/^(encoder|session_knn)/, "fits this visit"],
  [/.*/, "goes with what you like"],
];

/**
 * `item` as the API answers it with explain=true. `basket` are products in the cart or bought just now, the last one
 * first, each with the ids of what goes with it.
 */
export function why(item, basket, inCart) {
  if (inCart) return "in your cart";
  const own = (item.why?.sources ?? [item.source]).includes("history");
  if (!own) {
    const beside = basket.find((product) => product.related.includes(item.id));
    if (beside) return `bought together with ${beside.name.toLowerCase()}`;
  }
  const best = (item.why?.reasons ?? []).find(
    (reason) => reason.contribution > 0 && FEATURES[reason.feature] && (own || !reason.feature.startsWith("own_")),
  );
  if (own) return best?.feature.startsWith("own_") ? FEATURES[best.feature] : SOURCES.history;
  if (SOURCES[item.source]) return SOURCES[item.source];
  return GENERATORS.find(([pattern]) => pattern.test(item.source))[1];
}
