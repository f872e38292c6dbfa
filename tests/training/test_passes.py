"""Each way to compute rows beside the plain one: every segment a row of its own, in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.attention.flex_attention import flex_attention

from groups import START, DrawnTurn, Group, Piece, groups, one_row_each, segments_of
from tiny_vlm import KeepingFloat64, lively, picture, sampled_rows, tiny_qwen3, tiny_vlm
from visual_arft.errors import TokenMismatch, UserError
from visual_arft.images import MemoryImages
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.training import passes, shared
from visual_arft.training.learner import Learner
from visual_arft.training.loss import grpo_loss
from visual_arft.training.packed import block_mask, dense_mask
from visual_arft.training.pictures import Pictures
from visual_arft.training.segments import Row, Segment, rows
from visual_arft.training.settings import GrpoConfig, TreeConfig
from visual_arft.training.tree import trees
from visual_arft.training.updates import logprobs_of, prepare

IMAGES = MemoryImages()
MODELS = {"Qwen2.5-VL": tiny_vlm, "Qwen3-VL": tiny_qwen3}
WAYS = ["shared", "packed"]
LOSS = {"clip_range": 0.2, "kl_coef": 0.3, "reduction": "token"}

Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Cut:
    """How trees are cut: into packs, and within them."""

    packs: int
    piece: int
    """Tokens that attend causally at once, where prefixes are shared."""
    chunk: int
    """Logits at once."""


cuts = st.builds(
    Cut,
    packs=st.integers(1, 4),
    piece=st.sampled_from([3, 128]),
    chunk=st.sampled_from([900, 2**26]),
)


def lively_model(
    name: str, dtype: torch.dtype = torch.float32, seed: int = 2
) -> VisionLanguageModel:
    vlm = lively(MODELS[name](IMAGES, seed=seed))
    vlm.model.to(dtype)
    return vlm


def taken(vlm: VisionLanguageModel) -> Gradients:
    found = {n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None}
    vlm.model.zero_grad(set_to_none=True)
    return found


def plain(
    vlm: VisionLanguageModel, reference: VisionLanguageModel, segments: Sequence[Segment]
) -> tuple[float, Gradients]:
    batch, inputs = prepare(vlm, one_row_each(segments))
    with torch.no_grad():
        ref = logprobs_of(reference, batch, inputs, 0.9)
    logprobs = logprobs_of(vlm, batch, inputs, 0.9)
    loss = grpo_loss(logprobs, batch.old_logprobs, ref, batch.advantages, batch.mask, **LOSS)
    loss.backward()
    return loss.item(), taken(vlm)


def learner(
    vlm: VisionLanguageModel, way: str, reference: VisionLanguageModel | None = None, **tree: int
) -> Learner:
    settings = {**LOSS, "temperature": 0.9, "micro_batch_size": 4, "tree": {"way": way, **tree}}
    if reference is None and not hasattr(vlm.model, "disable_adapter"):
        settings["kl_coef"] = 0.0
    return Learner(vlm, GrpoConfig.model_validate(settings), reference)


def by_tree(
    vlm: VisionLanguageModel,
    reference: VisionLanguageModel,
    segments: Sequence[Segment],
    way: str,
    cut: Cut,
) -> tuple[float, Gradients]:
    given = rows(segments)
    budget = budget_for(given, vlm.chat.image_token_id, cut.packs)
    with patch.object(shared, "_PIECE", cut.piece), patch.object(passes, "_CHUNK", cut.chunk):
        numbers = learner(vlm, way, reference, pack_tokens=budget).add_gradients(given)
    return numbers["loss"], taken(vlm)


def budget_for(given: Sequence[Row], image_token: int, packs: int) -> int:
    """The largest budget by which rows are cut to so many packs, or as many as can be."""
    longest = max(len(row.ids) for row in given)
    budget = sum(len(row.ids) for row in given)
    while budget > longest and len(trees(given, image_token, budget)) < packs:
        budget -= 1
    return budget


def assert_equal(
    one: tuple[float, Gradients], other: tuple[float, Gradients], relative: float
) -> None:
    assert one[0] == pytest.approx(other[0], rel=relative)
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        distance = (one[1][name] - gradient).norm().item()
        assert distance <= relative * gradient.norm().item(), name


@pytest.mark.parametrize("examples", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_padded_segments(
    name: str, way: str, dtype: torch.dtype, examples: int
):
    @settings(max_examples=examples)
    @given(drawn=groups, cut=cuts)
    def they_are(drawn: list[Group], cut: Cut) -> None:
        vlm, reference = (lively_model(name, dtype, seed) for seed in (2, 3))
        segments = segments_of(drawn, vlm)
        with KeepingFloat64():
            expected = plain(vlm, reference, segments)
            found = by_tree(vlm, reference, segments, way, cut)
        assert_equal(found, expected, 1e-10 if dtype == torch.float64 else 1e-5)

    they_are()


def episodes(vlm: VisionLanguageModel) -> list[Segment]:
    """A group in a growing chat, one that tells all anew, and images of tools in both."""
    shared_prompt = (Piece((20, 21, 22), picture=0), Piece((22, 21)))
    mates = [
        ((DrawnTurn((), (20, 20, 30 + mate)), DrawnTurn((Piece((21,), picture=mate),), (22, 30 + mate))), mate - 1.5)
        for mate in (0, 1, 2)
    ]  # fmt: skip
    told = [
        (tuple(replace(turn, is_retold=True) for turn in turns), advantage)
        for turns, advantage in mates
    ]
    return segments_of([(shared_prompt, tuple(mates)), ((Piece((21,), 1),), tuple(told))], vlm)


@pytest.mark.parametrize("way", WAYS)
def test_a_mean_over_rows_is_that_of_padded_rows(way: str):
    vlm = lively_model("Qwen2.5-VL")
    given = rows(episodes(vlm))
    found = []
    for each in ("padded", way):
        one = learner(vlm, each, lively_model("Qwen2.5-VL", seed=3))
        one._config = one._config.model_copy(update={"reduction": "sequence"})
        found.append((one.add_gradients(given)["loss"], taken(vlm)))
    assert_equal(found[1], found[0], 1e-5)


def with_lora(
    vlm: VisionLanguageModel, where: str = r".*language_model.*\.(q|k|v|o)_proj"
) -> VisionLanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vlm.model = get_peft_model(vlm.model, LoraConfig(target_modules=where))
    for name, parameter in vlm.model.named_parameters():
        if "lora_B" in name:  # as after some updates: at first the adapters change nothing
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return vlm


def with_lora_everywhere(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """In the tower too, so that the reference sees with other eyes."""
    return with_lora(vlm, r".*\.(q_proj|v_proj|qkv)")


def with_frozen_tower(vlm: VisionLanguageModel) -> VisionLanguageModel:
    vlm.core.model.visual.requires_grad_(False)
    return vlm


def with_checkpointing(vlm: VisionLanguageModel) -> VisionLanguageModel:
    vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
    return vlm


def with_lora_and_checkpointing(vlm: VisionLanguageModel) -> VisionLanguageModel:
    return with_checkpointing(with_lora(vlm))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "make",
    [
        with_lora,
        with_lora_everywhere,
        with_frozen_tower,
        with_checkpointing,
        with_lora_and_checkpointing,
    ],
)
def test_whatever_learns_gets_the_gradient_of_padded_rows(
    make: Callable[[VisionLanguageModel], VisionLanguageModel], name: str, way: str
):
    found = []
    for each in ("padded", way):
        vlm = make(lively_model(name))
        reference = None if hasattr(vlm.model, "disable_adapter") else lively_model(name, seed=3)
        numbers = learner(vlm, each, reference, pack_tokens=60).add_gradients(rows(episodes(vlm)))
        assert numbers["kl"] > 0
        found.append((numbers["loss"], taken(vlm)))
    assert_equal(found[1], found[0], 1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_checkpointing_computes_layers_twice_and_only_in_updates(way: str):
    vlm = with_checkpointing(lively_model("Qwen2.5-VL"))
    calls = []
    layer = vlm.core.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda *_: calls.append(layer.training))
    given = sampled_rows(vlm, [1.0, -1.0])
    assert calls
    assert not any(calls)
    calls.clear()
    learner(vlm, way, pack_tokens=1000).add_gradients(given)
    assert calls == [True, True]
    assert not layer.training


@pytest.mark.parametrize("way", WAYS)
def test_in_bfloat16_it_is_as_near_to_the_truth_as_padded_rows_are(way: str):
    segments = episodes(lively_model("Qwen2.5-VL"))
    gradients = {}
    for each, dtype in (("padded", torch.float32), ("padded", torch.bfloat16), (way, torch.bfloat16)):  # fmt: skip
        vlm = lively_model("Qwen2.5-VL", dtype)
        learner(vlm, each).add_gradients(rows(segments))
        gradients[each, dtype] = torch.cat([g.float().flatten() for g in taken(vlm).values()])
    truth, padded, mine = gradients.values()
    assert 0 < (mine - truth).norm() < 1.5 * (padded - truth).norm()


@pytest.mark.parametrize("way", WAYS)
def test_autocast_computes_in_bfloat16(way: str):
    vlm = lively_model("Qwen2.5-VL")
    given = rows(episodes(vlm))
    [whole] = passes.passes(vlm, given, TreeConfig(way=way), micro_batch_size=1)
    exact = whole.logprobs(vlm, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        near = whole.logprobs(vlm, 1.0)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.2


@dataclass
class Seen:
    images: int = 0
    tokens: int = 0


def watched(vlm: VisionLanguageModel) -> Seen:
    seen = Seen()

    def vision(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen.images += len(kwargs["grid_thw"])

    def language(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen.tokens += kwargs["inputs_embeds"].shape[:2].numel()

    vlm.core.model.visual.register_forward_pre_hook(vision, with_kwargs=True)
    vlm.core.model.language_model.register_forward_pre_hook(language, with_kwargs=True)
    return seen


@pytest.mark.parametrize("way", WAYS)
def test_each_image_is_encoded_once_and_each_shared_token_computed_once(way: str):
    vlm = lively_model("Qwen2.5-VL")
    segments = episodes(vlm)
    pictures = {image.sha256 for segment in segments for image in segment.images}
    beginnings = {
        (row.ids[: n + 1], tuple(image.sha256 for image in row.images[: row.ids[:n].count(START)]))
        for row in rows(segments)
        for n in range(len(row.ids))
    }  # fmt: skip
    seen = watched(vlm)
    learner(vlm, way, pack_tokens=1000).add_gradients(rows(segments))
    assert (seen.images, seen.tokens) == (len(pictures), len(beginnings))
    learner(vlm, way, pack_tokens=60).add_gradients(rows(segments))  # in several packs
    assert seen.images == 2 * len(pictures)


def test_images_wait_for_the_last_pack_that_shows_any_that_was_encoded_with_them():
    vlm = lively_model("Qwen2.5-VL")
    one, other = picture(IMAGES, 0), picture(IMAGES, 1)
    features = vlm.encode([one, other])
    (features[one.sha256][0].sum() + 2 * features[other.sha256][0].sum()).backward()
    expected = taken(vlm)
    seen = watched(vlm)
    packs = [[one, other], [other]]
    pictures = Pictures(vlm, packs)
    for number, shown in enumerate(packs):
        sum(feature.sum() for [feature] in pictures.of(shown).values()).backward()
        assert not taken(vlm)
        pictures.release(number)
    assert seen.images == 2
    assert_equal((0.0, taken(vlm)), (0.0, expected), 1e-5)


@pytest.mark.parametrize("way", [*WAYS, "padded"])
def test_only_what_a_row_s_own_policy_wrote_has_a_log_probability(way: str):
    vlm = lively_model("Qwen2.5-VL")
    segments = [
        Segment("t", 0, (20, 21), (22, 21), (0.0, 0.0), (), 1.0),
        Segment("u", 0, (20, 21, 22), (22,), (0.0,), (), 1.0),
    ]
    for part in passes.passes(vlm, rows(segments), TreeConfig(way=way), micro_batch_size=4):
        found = part.logprobs(vlm, 1.0)
        assert torch.equal(found != 0, part.batch.mask)


def test_a_frozen_tower_encodes_once_for_the_policy_and_its_reference_without_adapters():
    vlm = with_lora(lively_model("Qwen2.5-VL"))
    seen = watched(vlm)
    segments = episodes(vlm)
    learner(vlm, "shared").add_gradients(rows(segments))
    assert seen.images == len({image.sha256 for each in segments for image in each.images})


def test_a_row_longer_than_a_pack_is_an_error_that_names_its_task():
    vlm = lively_model("Qwen2.5-VL")
    with pytest.raises(UserError, match=r"task 'group 1, mate 2': a row of \d+ tokens is longer than pack_tokens = 9; raise"):  # fmt: skip
        learner(vlm, "shared", pack_tokens=9).add_gradients(rows(episodes(vlm)))


@pytest.mark.parametrize("way", [*WAYS, "padded"])
def test_images_that_do_not_match_the_tokens_are_an_error_that_names_the_task(way: str):
    vlm = lively_model("Qwen2.5-VL")
    [row, *_] = rows(episodes(vlm))
    wrong = replace(row, images=(picture(IMAGES, 1, 40, 300), *row.images[1:]))
    with pytest.raises(TokenMismatch, match="task 'group 0, mate 0'"):
        learner(vlm, way).add_gradients([wrong])


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("layer_types", ["full_attention", "sliding_attention"], "sliding_attention"),
        ("layer_types", ["linear_attention", "full_attention"], "linear_attention"),
        ("attention_dropout", 0.1, "attention with dropout"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_model_whose_layers_take_no_tree_is_refused_by_name(
    way: str, setting: str, value: object, said: str
):
    vlm = lively_model("Qwen2.5-VL")
    setattr(vlm.core.model.language_model.config, setting, value)
    vlm.model.config.name_or_path = "acme/striped-vl"
    vlm.model.train(setting == "attention_dropout")
    message = rf"acme/striped-vl: its layers \({said}\) cannot attend along a tree; set tree.way = 'padded'"
    with pytest.raises(UserError, match=message):
        learner(vlm, way).add_gradients(rows(episodes(vlm)))


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_left_as_it_was_even_after_an_error(way: str):
    vlm = lively_model("Qwen2.5-VL")
    config = vlm.core.model.language_model.config
    given = rows(episodes(vlm))
    one = learner(vlm, way)
    with patch.object(one, "_backward", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):  # fmt: skip
        one.add_gradients(given)
    assert config._attn_implementation == "sdpa"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_flex_attention_reads_the_block_mask():
    """Compiled for the CPU, which has no backward pass; on a GPU the next test compares all."""
    ends = torch.tensor([600] * 150 + [290] * 140 + [600] * 10 + [400] * 100 + [600] * 200)
    query, key, value = (
        torch.randn(1, heads, 600, 16, generator=torch.Generator().manual_seed(heads))
        for heads in (4, 2, 1)
    )
    value = value.expand(1, 2, 600, 16)
    seen = torch.compile(flex_attention)(
        query, key, value, block_mask=block_mask(ends), scale=0.3, enable_gqa=True
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=dense_mask(ends), scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_the_packed_row_has_the_gradient_of_padded_rows():
    found = []
    for way in ("padded", "packed"):
        vlm = lively(tiny_vlm(IMAGES, seed=2, hidden=128))
        vlm.model.to("cuda")
        vlm._banned = vlm._banned.to("cuda")
        numbers = learner(vlm, way).add_gradients(rows(episodes(vlm)))
        found.append((numbers["loss"], taken(vlm)))
    assert_equal(found[1], found[0], 1e-3)
