"""The closed form of characters: tokens of text become their embeddings, those of photographs stay."""

from pathlib import Path

import torch
from illava_lab.real.training import spelling
from illava_lab.real.training.encoder import Encoder
from illava_lab.real.training.model import TrainedModel
from illava_lab.real.training.reading import CHARACTERS, NOTHING, Lesson
from illava_lab.real.training.spelling import spell
from transformers import AutoTokenizer

COLOURS = {"a": (250, 20, 20), "7": (20, 250, 20), "$": (20, 20, 250)}


class Coloured:
    """Pages of one character each, which is one colour, and grey photographs."""

    def __getitem__(self, number: int) -> Lesson:
        generator = torch.Generator().manual_seed(number)
        letters = list(COLOURS)
        pages = torch.stack([torch.tensor(COLOURS[letter]).expand(28, 28, 3) for letter in letters])
        noise = torch.randint(-15, 16, pages.shape, generator=generator)
        wanted = torch.full((3, 4, 2), NOTHING)
        for row, letter in enumerate(letters):
            wanted[row] = CHARACTERS.index(letter)
        photos = torch.randint(90, 160, (6, 28, 28, 3), generator=generator)
        return Lesson((pages + noise).clamp(0, 255).byte(), wanted, photos.byte())


def test_text_is_spelt_and_photographs_stay(parts: dict[str, Path], trained: TrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    before = Encoder(parts["encoder"], torch.float32)
    lessons = Coloured()
    with torch.no_grad():
        photos = lessons[200].photos
        old = trained.projector(before(photos))
        far = torch.cdist(
            trained.projector(before(lessons[200].pages)).mean(1), _embedded(trained, tokenizer)
        )
    fit = spell(trained, before, tokenizer, lessons, 30)
    assert fit.named == 1.0
    assert fit.moved < 0.15
    with torch.no_grad():
        found = trained.projector(trained.encoder(lessons[200].pages)).mean(1)
        near = torch.cdist(found, _embedded(trained, tokenizer))
        assert near.argmin(-1).tolist() == [0, 1, 2]
        assert (near.diagonal() < 0.5 * far.diagonal()).all()
        assert (trained.projector(trained.encoder(photos)) - old).square().mean() < 0.15 * old.var()


def test_it_solves_the_weighted_ridge_regression(parts: dict[str, Path], trained: TrainedModel) -> None:
    torch.manual_seed(0)
    sums = spelling._Sums(trained.projector)
    kinds = {True: torch.randn(9, 24), False: torch.randn(40, 24)}
    wanted = {text: torch.randn(len(features), 48) for text, features in kinds.items()}
    for text, features in kinds.items():
        for half in (slice(0, 5), slice(5, None)):
            sums.add(features[half], wanted[text][half], text)
    change = sums.solved().requires_grad_()
    loss, scale = torch.zeros(()), 0.0
    for text, features in kinds.items():
        units = torch.nn.functional.gelu(trained.projector.linear_1(features))
        x = torch.cat([units, torch.ones(len(units), 1)], dim=1).detach()
        missing = wanted[text] - trained.projector.linear_2(units).detach()
        loss = loss + (x @ change - missing).square().sum() / len(x)
        scale += float(x.square().sum(0).mean()) / len(x)
    (gradient,) = torch.autograd.grad(loss + spelling.RIDGE * scale * change.square().sum(), change)
    assert gradient.abs().max() < 1e-3


def _embedded(model: TrainedModel, tokenizer: AutoTokenizer) -> torch.Tensor:
    return torch.stack(
        [model.llm.embed(torch.tensor(tokenizer(letter)["input_ids"])).mean(0) for letter in COLOURS]
    )
