"""What the page's shop sells: the products of the Online Retail data, and departments for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from streamproc.errors import SettingsError
from streamproc_producers.events import CartEvent, EventType

#: The page's files.
STATIC = Path(__file__).with_name("static")
#: The data set names no departments. A product is in the first one that has a word of its name.
_DEPARTMENTS = {
    "Christmas": "christmas xmas santa advent reindeer snowman stocking noel",
    "Lights & candles": "candle candles t-light light lights lantern lamp candlestick tealight night",
    "Bags": "bag bags shopper tote purse rucksack backpack luggage",
    "Kitchen & table": (
        "cake mug mugs cup cups tea bowl plate plates baking jar jars kitchen cutlery apron lunch bottle glass napkin"
        " napkins teapot tray jug egg recipe pantry spoon tins coffee bread oven cakestand snack sugar coaster coasters"
    ),
    "Jewellery": "necklace earrings bracelet ring brooch bangle pendant hair earring charm",
    "Paper & gifts": (
        "card cards wrap paper gift notebook ribbon ribbons tissue sticker stickers pencil pencils book stationery"
        " letter tags invites envelope calendar pen journal"
    ),
    "Toys & children": (
        "toy toys game doll dolly children childrens spaceboy playhouse puzzle skipping jigsaw dinosaur baby girl boy"
        " circus cowboy knitting"
    ),
    "Garden": "garden flower flowers plant pot herb parasol bird birdhouse watering hanging umbrella",
    "Home": (
        "box clock frame cushion sign hook drawer wall mirror heart hearts metal wooden wood doormat wicker tin photo"
        " cabinet stool chalkboard cover door hot bath soap storage decoration"
    ),
}
_DEPARTMENT_OF = {word: name for name, words in reversed(_DEPARTMENTS.items()) for word in words.split()}
_OTHER = "More"


class Product(msgspec.Struct, frozen=True):
    """A product as the page shows it."""

    id: str
    name: str
    #: Of one unit; 0 where it is not known.
    price: float = 0.0
    #: The department; empty for none.
    group: str = ""


class Shopper(msgspec.Struct, frozen=True):
    """Somebody with a history whom a visitor may be."""

    id: str
    #: In a few words, what is known of them.
    note: str


class Catalogue(msgspec.Struct, frozen=True):
    """``catalogue.json``: what the page reads beside the API."""

    #: The most bought first.
    products: list[Product]
    shoppers: list[Shopper] = []
    #: Of the prices, by ISO 4217.
    currency: str = "GBP"


def read_catalogue(path: Path) -> Catalogue:
    """Read ``catalogue.json``. Raises SettingsError with the field that is wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Catalogue)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no catalogue: {error}; docs/live.md says how it is written") from error


def department(name: str) -> str:
    """Where a product of this name stands."""
    words = name.lower().replace(",", " ").split()
    order = list(_DEPARTMENTS)
    found = {_DEPARTMENT_OF[word] for word in words if word in _DEPARTMENT_OF}
    return min(found, key=order.index) if found else _OTHER


def products_of(events: Iterable[CartEvent], names: Mapping[str, str]) -> list[Product]:
    """The products that these events buy, the most bought first, each at the price of its last purchase."""
    bought: Counter[str] = Counter()
    prices: dict[str, float] = {}
    for event in events:
        if event.event_type is EventType.PURCHASE:
            bought[event.item_id] += 1
            prices[event.item_id] = event.price or prices.get(event.item_id, 0.0)
    return [
        Product(item, names.get(item, ""), round(prices[item], 2), department(names.get(item, "")))
        for item, _ in bought.most_common()
    ]
