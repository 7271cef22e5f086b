"""Words that only the split "test" shows: no list, label, question or answer of training has them."""

import itertools
import re

import pytest
from illava_lab.real import data
from illava_lab.real.data import cards, forms, nlvr, receipts, rendering, signs, vocabulary

# Every word of the answers about the training pictures of the five sets, those of the streams included.
ANSWERS = {
    "cards": "ace jack king nine no queen ten yes one two three four five six seven eight",
    "clothing": "cap coat dress hat jacket long longsleeve outerwear outwear pants shirt shoe shoes shorts "
    "skirt sleeve sleeved t tee trousers tshirt",
    "digits_sign": "zero one two three four five six seven eight nine hand sign",
    "grocery": "alpro anjou apple arla asparagus aubergine avocado banana beef beet bell blueberry bravo "
    "brown cabbage cantaloupe cap carrot carrots conference cream cucumber delicious ecological fat "
    "floury fresh fruit gala galia garant garlic ginger god golden granny grapefruit green honeydew juice "
    "kaiser kiwi lactose lady leek lemon lime low mandarin mango medium melon mild milk morgon morning "
    "mushroom natural nectarine oat oatghurt oatly onion orange papaya passion peach pear pepper "
    "pineapple pink plum pomegranate potato red regular royal satsumas shelf smith smooth solid sour "
    "soy soyghurt standard strawberry sweet tomato tropicana valio vanilla vine watermelon yellow yoggi "
    "yoghurt zucchini",
    "nlvr": "yes no",
}
COLOURS = "red blue green black white yellow brown pink"


def words_in(text):
    return re.findall(r"[a-z]+", text.lower())


def forms_of(word):
    """The word, its plurals and, if it is one, what it is a plural of."""
    return {word, word + "s", word + "es", word.removesuffix("s"), word.removesuffix("es")}


def new_in(text):
    """The words of ``text`` that are new, or whose plural or singular is."""
    return {word for word in words_in(text) if forms_of(word) & set(vocabulary.NEW_WORDS)}


def strings(value):
    """All texts in nested tuples and dicts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for text in strings(item)]
    return [text for item in value for text in strings(item)] if isinstance(value, tuple) else []


def test_no_list_has_a_new_word():
    lists = {
        name: strings(value)
        for name, value in vars(vocabulary).items()
        if name.isupper() and name not in ("NEW_WORDS", "SHARES")
    }
    for module in (cards, forms, nlvr, receipts, signs):
        lists |= {
            f"{module.__name__}.{name}": strings(value)
            for name, value in vars(module).items()
            if name.isupper() and name != "NEW_WORDS"
        }
    assert {"WORDS", "GOODS", "SIGHTS", "PLACES", "LAST"} <= lists.keys()
    assert {"member", "parking", "color"} <= {
        w for text in itertools.chain(*lists.values()) for w in words_in(text)
    }
    assert {name: found for name, some in lists.items() if (found := new_in(" ".join(some)))} == {}


@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_about_a_picture_set_is_a_new_word(name):
    assert new_in(ANSWERS[name]) == set()
    assert new_in(COLOURS) == set()


def test_new_words_are_many_plain_and_of_one_form():
    some = vocabulary.NEW_WORDS
    assert len(some) == len(set(some)) >= 98
    assert all(re.fullmatch("[a-z]+", word) for word in some)
    assert all(len(new_in(word) & {word}) == 1 for word in some)
    assert not [(one, other) for one, other in itertools.permutations(some, 2) if other in forms_of(one)]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", data.STREAMS)
def test_no_scene_prints_asks_for_or_answers_a_new_word(folder, monkeypatch, name, split):
    seen, write = [], rendering.Pen.write
    monkeypatch.setattr(
        rendering.Pen, "write", lambda pen, text, *rest: (seen.append(text), write(pen, text, *rest))[1]
    )
    scene = data.stream(name, split, 0, folder)
    for number in range(40):
        seen += [text for turn in scene(number).turns for text in (turn.question, turn.answer)]
    assert len(seen) > 80
    assert new_in(" ".join(seen)) == set()
