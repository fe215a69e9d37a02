# ruff: noqa: SIM905 - lists of words read best as running text
"""Values that fill the slots of a message: people, products, order numbers, amounts, dates.

Every list has a training part and an unseen part; generated words are assigned to a part by a checksum, so that
no value of the unseen part ever appears in training.
"""

from __future__ import annotations

import codecs
import random
import zlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

UNSEEN_EVERY = 6
"""One value in this many is kept out of training."""

FIRST_NAMES = """
James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara Richard Susan Joseph Jessica
Thomas Sarah Charles Karen Christopher Lisa Daniel Nancy Matthew Betty Anthony Margaret Mark Sandra Steven Ashley Paul
Emily Andrew Donna Joshua Michelle Kenneth Carol Kevin Amanda Brian Dorothy George Melissa Edward Deborah Ronald
Stephanie Timothy Rebecca Jason Sharon Jeffrey Laura Ryan Cynthia Jacob Kathleen Gary Amy Nicholas Angela Eric Shirley
Jonathan Anna Stephen Brenda Larry Pamela Justin Emma Scott Nicole Brandon Helen Benjamin Samantha Samuel Katherine
Gregory Christine Alexander Rachel Patrick Carolyn Frank Janet Raymond Maria Jack Catherine Dennis Heather Jerry Diane
Tyler Olivia Aaron Julie Jose Joyce Adam Victoria Nathan Ruth Henry Virginia Peter Lauren Zachary Kelly Kyle Christina
Noah Joan Ethan Evelyn Jeremy Judith Walter Andrea Christian Hannah Keith Megan Roger Cheryl Sean Jacqueline Austin
Martha Carl Madison Lawrence Teresa Dylan Gloria Jesse Sara Jordan Janice Bryan Ann Luis Abigail Gabriel Sophia Bruce
Grace Omar Leila Hans Ingrid Yusuf Fatima Pierre Chloe Marco Giulia Pablo Lucia Sven Astrid Ivan Olga Raj Priya Wei
Mei Hiroshi Yuki Ahmed Amina Kofi Zara Liam Nora Lars Freya Diego Elena Mateo Ines Tomas Klara Viktor Mila
""".split()

LAST_NAMES = """
Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson
Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young
Allen King Wright Scott Torres Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter
Roberts Gomez Phillips Evans Turner Diaz Parker Cruz Edwards Collins Reyes Stewart Morris Morales Murphy Cook Rogers
Gutierrez Ortiz Morgan Cooper Peterson Bailey Reed Kelly Howard Ramos Kim Cox Ward Richardson Watson Brooks Chavez
Wood James Bennett Gray Mendoza Ruiz Hughes Price Alvarez Castillo Sanders Patel Myers Long Ross Foster Jimenez Meyer
Weber Schmidt Fischer Wagner Becker Hoffman Klein Wolf Schulz Novak Horvat Kowalski Nowak Ivanov Petrov Hansen Olsen
Larsen Berg Lund Nilsson Rossi Russo Ferrari Costa Silva Santos Pereira Dubois Moreau Laurent Simon Tanaka Suzuki Sato
Chen Wang Liu Zhang Singh Sharma Gupta Khan Ali Hassan Okafor Mensah Diallo Cohen Levy Murray Ellis Fletcher Pratt
""".split()

NOUNS = (
    "kettle,toaster,blender,air fryer,coffee maker,coffee machine,espresso machine,rice cooker,mixer,juicer,oven,"
    "microwave,fridge,freezer,dishwasher,washing machine,dryer,vacuum,vacuum cleaner,robot vacuum,iron,fan,"
    "heater,air purifier,humidifier,lamp,desk lamp,floor lamp,light bulb,smart bulb,thermostat,doorbell,camera,"
    "security camera,webcam,monitor,laptop,tablet,phone,smartphone,smartwatch,watch,fitness tracker,headphones,"
    "headset,earbuds,speaker,soundbar,radio,turntable,microphone,keyboard,mouse,printer,scanner,router,modem,"
    "hard drive,memory card,power bank,charger,cable,adapter,docking station,projector,television,remote control,"
    "game console,controller,drone,e-reader,bicycle,e-bike,scooter,helmet,backpack,suitcase,tent,sleeping bag,"
    "camping stove,yoga mat,dumbbells,treadmill,rowing machine,running shoes,boots,sneakers,sandals,jacket,"
    "raincoat,coat,sweater,hoodie,shirt,dress,skirt,jeans,trousers,gloves,scarf,hat,belt,wallet,handbag,"
    "sunglasses,umbrella,ring,necklace,bracelet,sofa,armchair,chair,office chair,desk,table,dining table,"
    "bookshelf,wardrobe,bed,bed frame,mattress,pillow,blanket,duvet,curtain,rug,mirror,picture frame,vase,pan,"
    "frying pan,pot,knife,knife set,cutting board,plate,bowl,mug,water bottle,thermos,lunch box,baby monitor,"
    "stroller,car seat,crib,toy train,puzzle,board game,doll,guitar,piano,violin,drum kit,electric toothbrush,"
    "hair dryer,shaver,trimmer,scale,blood pressure monitor,massage gun,drill,saw,screwdriver,hammer,ladder,"
    "lawn mower,hedge trimmer,garden hose,grill,barbecue,patio heater,flower pot,dog bed,cat tree,aquarium,"
    "bird feeder,notebook,pen,planner,backpack cover,phone case,screen protector,tripod,lens,binoculars,"
    "telescope,sewing machine,bread maker,ice cream maker,popcorn machine,wine cooler,water filter,soda maker,"
    "food scale,steam mop,window cleaner,garage opener,smoke detector,door lock,alarm clock,weather station,"
    "solar panel,battery pack,generator,air compressor,tool box,work bench,roof box,bike rack,dash cam,tyre pump,"
    "snow shovel"
).split(",")

SERVICES = (
    "subscription,plan,membership,package,licence,streaming plan,music plan,phone plan,data plan,internet plan,"
    "gym membership,meal box,coffee subscription,magazine subscription,cloud storage,cloud plan,backup plan,"
    "insurance,warranty plan,support plan,wine club,book club,news subscription,video service,mobile contract,"
    "fibre plan,tv package,fitness app,learning app,language course,hosting plan,team licence,family plan"
).split(",")

TIERS = "Plus,Pro,Max,Mini,Lite,Basic,Premium,Gold,Air,Ultra,One,Home,Go,Prime,Neo,Flex,Eco,Duo,Classic,Family".split(
    ","
)

GENERIC_GOODS = ("item", "product", "purchase", "article")
GENERIC_SERVICES = ("subscription", "plan", "membership", "contract")

CITIES = (
    "London Paris Berlin Madrid Rome Vienna Oslo Stockholm Dublin Lisbon Prague Warsaw Athens Boston Chicago Denver "
    "Seattle Austin Miami Toronto Montreal Sydney Auckland Tokyo Singapore Mumbai Cairo Nairobi Lagos Lima Bogota "
    "Norway Canada Ireland Spain Italy Poland Japan Brazil Mexico Iceland Scotland Texas Ohio Bristol Leeds Lyon Turin"
).split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
TIMES = (
    "last week,yesterday,two weeks ago,a month ago,ten days ago,last month,on Monday,three days ago,in spring,"
    "a few days ago,at the weekend,over a week ago"
).split(",")

_ONSETS = (
    "b br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sc sh sk sl sm sn sp st t th tr v w z zh"
).split()
_VOWELS = "a e i o u a e i o ai au ea ei ia io oa oo ou y".split()
_CODAS = ["", "", "", "", "b", "ck", "d", "f", "g", "l", "ll", "m", "n", "nd", "nt", "p", "r", "rk", "rn", "s", "sk"]
_CODAS += ["st", "t", "th", "v", "x", "z", "rd", "lt", "mp"]
_ENDINGS = ["", "", "", "a", "o", "ex", "ix", "on", "is", "ra", "io", "us", "er", "en", "ia", "um", "el", "an", "eo"]
_RUDE = codecs.decode(
    "fuvg shpx phag qvpx pbpx gjng nff cvff cbea frk encr anmv avttr snt ubzb yrfo chff jnax gvg crav intva fyhg juber "
    "xvyy uvgyre penc cbbc qnza onfg ovgpu qlxr fcvp fcnfgvp ergneq ohgg nahf urebva zrgu pbba tbbx xvxr cnxv grng "
    "fhpx",
    "rot13",
).split()


def is_unseen(word: str) -> bool:
    """Whether a generated or listed word belongs to the part that training never shows."""
    return zlib.crc32(word.lower().encode()) % UNSEEN_EVERY == 0


def is_rude(word: str) -> bool:
    """Whether a generated word contains one that nobody should see in an example."""
    return any(part in word.lower() for part in _RUDE)


def of_part(words: Sequence[str], unseen: bool) -> list[str]:
    """The words of a list that belong to the wanted part."""
    return [word for word in words if is_unseen(word) == unseen]


_NAMES = {part: (of_part(FIRST_NAMES, part), of_part(LAST_NAMES, part)) for part in (False, True)}
_THINGS = {part: of_part(NOUNS, part) for part in (False, True)}
_PLANS = {part: of_part(SERVICES, part) for part in (False, True)}


def pseudo_word(rng: random.Random, unseen: bool) -> str:
    """A pronounceable lower-case word of one to three syllables that is not in any list."""
    while True:
        syllables = rng.choice((1, 2, 2, 2))
        word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))
        word += rng.choice(_ENDINGS)
        if 3 <= len(word) <= 9 and is_unseen(word) == unseen and not is_rude(word):
            return word


def brand(rng: random.Random, unseen: bool) -> str:
    """An invented maker's or model name, capitalised."""
    while True:
        word = pseudo_word(rng, unseen)
        if rng.random() > 0.04:
            return word.capitalize()
        if is_unseen(word[:4]) == unseen:
            return word[:4].upper()


def model_number(rng: random.Random) -> str:
    """A short model number such as X200, 3 or S-40."""
    letter = rng.choice("ABCDEGHKLMNQRSTVXZ")
    digits = str(rng.randint(1, 9) * rng.choice((1, 10, 100, 11, 101)))
    return rng.choice((letter + digits, digits, letter + digits, f"{letter}-{digits}", letter * 2 + digits))


def person(rng: random.Random, unseen: bool) -> str:
    """A person's name: mostly first and last, sometimes one of them, sometimes an invented last name."""
    first, last = _NAMES[unseen]
    chance = rng.random()
    if chance < 0.22:
        return rng.choice(first)
    surname = brand(rng, unseen) if chance > 0.72 else rng.choice(last)
    if chance > 0.96:
        return f"{brand(rng, unseen)} {surname}"
    if chance > 0.92:
        return f"{rng.choice(first)} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {surname}"
    return f"{rng.choice(first)} {surname}"


def _branded(rng: random.Random, unseen: bool, noun: str) -> str:
    chance = rng.random()
    if chance < 0.2:
        return noun
    if chance < 0.55:
        text = f"{brand(rng, unseen)} {noun}"
    elif chance < 0.7:
        text = f"{brand(rng, unseen)} {rng.choice(TIERS)} {noun}"
    elif chance < 0.8:
        text = f"{brand(rng, unseen)} {model_number(rng)}"
    elif chance < 0.88:
        text = f"{brand(rng, unseen)} {model_number(rng)} {noun}"
    elif chance < 0.94:
        text = f"{brand(rng, unseen)} {rng.choice(TIERS)}"
    else:
        text = brand(rng, unseen)
    if rng.random() < 0.15:
        text = " ".join(word if word[0].isupper() else word.capitalize() for word in text.split(" "))
    return text


def product(rng: random.Random, unseen: bool) -> str:
    """A product: a plain noun, or a noun with an invented brand, a tier or a model number."""
    noun = pseudo_word(rng, unseen) if rng.random() < 0.12 else rng.choice(_THINGS[unseen])
    if rng.random() < 0.06:
        noun = f"{pseudo_word(rng, unseen)} {noun}"
    return _branded(rng, unseen, noun)


def service(rng: random.Random, unseen: bool) -> str:
    """A subscription or plan; plain generic words are avoided because they name no product."""
    while True:
        text = _branded(rng, unseen, rng.choice(_PLANS[unseen]))
        if text.lower() not in GENERIC_SERVICES and text.lower() not in GENERIC_GOODS:
            return text


def order_id(rng: random.Random) -> str:
    """An order number in one of many usual shapes."""

    def digits(low: int, high: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))

    def letters(count: int) -> str:
        return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(count))

    shape = rng.randrange(9)
    if shape <= 2:
        return rng.choice("123456789") + digits(3, 7)
    if shape == 3:
        return f"{letters(1)}-{digits(3, 6)}"
    if shape == 4:
        return f"{rng.choice(('ORD', 'ORDER', 'SO', 'WEB', 'SHOP', letters(3)))}-{digits(3, 6)}"
    if shape == 5:
        return f"{letters(2)}{digits(3, 7)}"
    if shape == 6:
        return f"{digits(3, 4)}-{digits(3, 5)}"
    if shape == 7:
        return f"{letters(2)}-20{rng.choice('12')}{rng.randint(0, 9)}-{digits(2, 4)}"
    return f"{digits(3, 4)}-{letters(2)}"


def amount(rng: random.Random) -> str:
    """A sum of money as people write it."""
    whole = rng.randint(3, 999)
    cents = rng.choice(("", "", f".{rng.randint(0, 99):02d}"))
    return rng.choice((f"${whole}{cents}", f"{whole}{cents} euros", f"{whole}{cents} dollars", f"£{whole}{cents}"))


def day(rng: random.Random) -> str:
    """A calendar day without a year."""
    number, month = rng.randint(1, 28), rng.choice(MONTHS)
    return rng.choice((f"{number} {month}", f"{month} {number}", f"the {number}th of {month}"))
