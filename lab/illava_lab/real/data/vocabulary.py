"""Words, names and goods that our own renderings use, and which of them a split may show.

Training and "val" share the words. Half of the words of "test" occur in no other split: neither another list
of these renderings nor a question or answer about a picture set has them, in the singular or plural. Names of
shops and persons are put together of parts that all splits share, but no whole name occurs in two splits.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ...drawing.streams import SPLITS


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# fmt: off
WORDS = _words("""
able acid also angle apron arm army aunt autumn axe baby back bag baker ball band bank barn basket bath
beach bean bed bell belt bench berry bike bill blade blanket block blood boat body bone boot bottle bowl
brain brass bread brick bridge brush bucket bus butter button cabin cable cake call camera camp candle car
card castle cave chain chair chalk cheese chest child church circle city clay clock cloth cloud coal coast
coat coffee coin cold color comb cook copper cord cork corner cotton cough country cover cow crack cream
crowd crown curtain curve dance dark day desk dinner dirt dish doctor dollar dream drink driver drop drum
dust ear earth edge engine eye face family farm father feather field finger fire flag floor flower fly
fold food forest fork frame friend frog fruit garden gate ghost gift girl glass globe glove goat gold
grain grape grass green guest guitar hair hammer harbor heart hill hole honey hook horn horse hotel hour
house ice idea ink iron island jacket jar jewel joke juice kettle kitchen kite knee knife knot ladder lake
land leaf leather leg lemon letter library light line lion lip lock lunch machine magic mail market mask
match meal meat metal middle mile mind minute mirror money monkey month morning mother motor mouse mouth
music nail name neck needle nerve nest news night noise north nose nurse oil onion open orange oven page
paint palace pan paper park part party path peace pepper piano picture pillow pilot pipe place plant plate
pocket poem point pond pool porch post powder price prince print prize pump purple queen rabbit radio rail
rat reason ribbon rice river robot rock roll roof room root rope rose round rule sail salt sand scale
school science sea seat secret seed shade shape sheep shelf shirt shock shop silk silver sister skin sky
sleep smile smoke snake soap sock soup south space spade sponge spoon spring square stage stamp star
station steam steel stem step stone store storm story street sugar summer swim table tail taxi teacher
team temple tent ticket tiger time tin toe tongue tooth town toy train tray truck tunnel turn uncle valley
velvet village violin voice wagon walk wall watch water wave wax weather week west wheel whistle window
wine winter wire wood wool word work world worm yard year yellow
""")
NEW_WORDS = _words("""
anchor ant badge balcony barrel bear bee beetle bird book branch bubble cactus camel canal canoe carpet
cat cellar cherry circus clover cobra comet cup daisy dog dolphin donkey door dragon duck eagle elbow
falcon fan fish foot fountain fox gem giraffe helmet hen hut jam key kitten lamp lantern lizard lobster
map maple marble moon moth mud net olive otter owl oyster parrot pen penguin pig pigeon planet puzzle
quiz rain road rocket rug saddle ship shovel snow sofa spider sun swan sweater tree trumpet tulip turtle
van vase vest wallet walnut walrus whale wind wolf zebra
""")
ADJECTIVES = ("Blue", "Green", "Golden", "Silver", "Little", "Old", "New", "Happy", "Sunny", "Royal", "Quick",
              "Corner", "Central", "Northern", "Lucky", "Red", "Fresh", "Grand", "White", "Quiet")
PLACES = ("Harbor", "Garden", "Market", "Bridge", "River", "Forest", "Station", "Valley", "Castle", "Mill",
          "Lake", "Tower", "Orchard", "Meadow", "Island", "Square", "Field", "Hill", "Park", "Beach")
TRADES = ("Cafe", "Bakery", "Grill", "Store", "Kitchen", "Diner", "Foods", "Bistro", "Deli", "Shop")
GOODS = ("Coffee", "Tea", "Milk", "Bread", "Butter", "Cheese", "Apples", "Bananas", "Rice", "Pasta", "Salad",
         "Soup", "Pizza", "Burger", "Fries", "Cake", "Cookies", "Juice", "Water", "Lemonade", "Eggs", "Sugar",
         "Honey", "Yogurt", "Tomatoes", "Onions", "Potatoes", "Sandwich", "Pancakes", "Omelette", "Tacos",
         "Noodles", "Sushi", "Steak", "Salmon", "Muffin", "Donut", "Bagel", "Waffles", "Soap", "Candles",
         "Batteries", "Notebook", "Pencils", "Flowers", "Stamps", "Gloves", "Umbrella")
FIRST = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Karen", "Leo",
         "Maria", "Nina", "Oscar", "Paula", "Quinn", "Robert", "Sara", "Thomas", "Ursula", "Victor", "Wendy",
         "Yusuf", "Zoe", "Amir", "Bella", "Carlos", "Diana", "Erik")
LAST = ("Smith", "Brown", "Miller", "Garcia", "Jones", "Davis", "Lopez", "Wilson", "Clark", "Young", "Hall",
        "King", "Wright", "Scott", "Green", "Baker", "Adams", "Nelson", "Carter", "Turner", "Parker", "Evans",
        "Cook", "Reed", "Cooper", "Ward", "Foster", "Kelly", "Price", "Long")
CITIES = ("London", "Paris", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Dublin", "Lisbon", "Prague",
          "Athens", "Warsaw", "Boston", "Denver", "Chicago", "Dallas", "Seattle", "Toronto", "Sydney",
          "Tokyo", "Delhi", "Cairo", "Lima", "Nairobi", "Zurich", "Geneva", "Munich", "Hamburg", "Lyon",
          "Milan")
SIGHTS = ("Museum", "Station", "Airport", "Hospital", "Library", "Beach", "Castle", "Market", "Harbor",
          "Zoo", "Theater", "School", "Hotel", "Church", "Bridge", "Stadium", "Garden", "Campsite",
          "Exit", "Toilets", "Parking", "Old Town", "City Hall", "Post Office", "Pool", "Tower", "Lake",
          "Park", "Ferry", "Clinic")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# fmt: on
SHARES = (80, 5, 15)  # of every 100 whole names, for train, val and test


def word(rng: np.random.Generator, split: str) -> tuple[str, bool]:
    """A word in lower case, and whether training never shows it, as is so for half of those of "test"."""
    new = split == "test" and rng.random() < 0.5
    some = NEW_WORDS if new else WORDS
    return some[int(rng.integers(len(some)))], new


def belongs(name: str, split: str) -> bool:
    """Whether the whole name may occur in ``split``; every name belongs to one split."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    return split == SPLITS[sum(place >= end for end in np.cumsum(SHARES)[:-1].tolist())]


def shop(rng: np.random.Generator, split: str) -> str:
    """The name of a shop, such as "Blue Harbor Cafe"."""
    return _name(rng, split, (ADJECTIVES, PLACES, TRADES))


def person(rng: np.random.Generator, split: str) -> str:
    """The name of a person, such as "Clara Reed"."""
    return _name(rng, split, (FIRST, LAST))


def _name(rng: np.random.Generator, split: str, parts: tuple[tuple[str, ...], ...]) -> str:
    while True:
        name = " ".join(part[int(rng.integers(len(part)))] for part in parts)
        if belongs(name, split):
            return name
