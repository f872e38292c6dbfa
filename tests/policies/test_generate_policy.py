from __future__ import annotations

import asyncio
import copy
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pil
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    Qwen2_5_VLProcessor,
)
from transformers.processing_utils import ProcessorMixin

from foreign_models import READING, SEEING
from tiny_vlm import ask, lively_vlm, picture, tokenizer
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages, decode
from visual_arft.model.foreign import ForeignModel, load_foreign
from visual_arft.model.load import is_supported
from visual_arft.model.settings import ModelConfig
from visual_arft.model.tiny import build_image_processor
from visual_arft.policies import Sampling
from visual_arft.policies.generate import GeneratePolicy
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.tags import TAGS
from visual_arft.types import Completion, Message, Prompt

IMAGES = MemoryImages()
ONE, TWO = picture(IMAGES, 1), picture(IMAGES, 2, 90, 40)


def chat(*texts: str, image: bool = False) -> Prompt:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    images = (TWO,) if image else ()
    return Prompt(
        messages=tuple(
            Message(role=roles[n % 2], text=text, images=() if n else images)
            for n, text in enumerate(texts)
        )
    )


TEXTS = [
    ask("hi"),
    ask("What does the sign say? It says 42, red, green and blue. Who built the tower?"),
    chat("Who built it?", "<think>I look.</think><search>tower</search>", "It was Eiffel."),
    ask("Which is the tower?"),
]
PICTURES = [
    ask("What does the sign say?", ONE),
    ask("Which is the tower?", TWO, ONE),
    ask("Which of these is the tower, and who built it?", ONE, TWO),
    chat("What is it?", "<think>I look.</think><answer>42</answer>", "Is it?", image=True),
]
EVERY = sorted({**SEEING, **READING})


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("foreign")
    for seed, (name, make) in enumerate({**SEEING, **READING}.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            make(root / name)
    return {name: root / name for name in EVERY}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, ForeignModel]:
    return {name: load_foreign(config(folder), IMAGES) for name, folder in folders.items()}


@pytest.fixture
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of one's own, to spoil."""
    return Path(shutil.copytree(folders[request.param], tmp_path / request.param))


def config(path: Path, **more: object) -> ModelConfig:
    return ModelConfig.model_validate({"path": str(path), "device": "cpu", **more})


def prompts(name: str) -> list[Prompt]:
    return TEXTS + PICTURES if name in SEEING else TEXTS


def generate(
    model: ForeignModel, asked: Sequence[Prompt], *, batch_size: int = 16, **sampling: float
) -> list[Completion]:
    settings = Sampling.model_validate({"max_new_tokens": 12, **sampling})
    policy = GeneratePolicy(model, settings, batch_size=batch_size)
    return asyncio.run(policy.generate(asked))


def token_ids(completions: Sequence[Completion]) -> list[tuple[int, ...] | None]:
    return [each.token_ids for each in completions]


@cache
def loaded(path: Path) -> tuple[Any, Any]:
    if path.name in SEEING:
        auto, processor = AutoModelForImageTextToText, AutoProcessor
    else:
        auto, processor = AutoModelForCausalLM, AutoTokenizer
    return auto.from_pretrained(path).eval(), processor.from_pretrained(path)


def natively(path: Path, prompt: Prompt) -> tuple[list[int], list[int]]:
    """Prompt and greedy reply as the model's makers would have them, one question at a time."""
    is_seeing, (model, processor) = path.name in SEEING, loaded(path)
    told = []
    for message in prompt.messages:
        content: Any = message.text
        if is_seeing:
            pixels = [Pil.fromarray(decode(IMAGES.read(image))) for image in message.images]
            content = [{"type": "image", "image": each} for each in pixels]
            content.append({"type": "text", "text": message.text})
        told.append({"role": message.role, "content": content})
    inputs = processor.apply_chat_template(
        told, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs.pop("token_type_ids" if not is_seeing else "", None)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    length = inputs["input_ids"].shape[1]
    return ids[0, :length].tolist(), ids[0, length:].tolist()


def recomputed(model: ForeignModel, prompt: Prompt, reply: Completion, t: float) -> list[float]:
    """The log-probabilities of a reply, by one pass over prompt and reply."""
    tensors = dict(model.inputs([prompt]).tensors)
    shape = tensors["input_ids"].shape
    drawn = torch.tensor([reply.token_ids])
    more = {"input_ids": drawn, "attention_mask": torch.ones_like(drawn)}
    for name, value in tensors.items():
        if value.shape == shape:
            tensors[name] = torch.cat([value, more.get(name, torch.zeros_like(drawn))], -1)
    with torch.no_grad():
        logits = model.model(**tensors).logits[0, shape[1] - 1 : -1]
    return (logits / (t or 1)).log_softmax(-1).gather(-1, drawn.T).squeeze(-1).tolist()


@pytest.mark.parametrize("name", EVERY)
def test_greedy_replies_of_a_batch_are_those_of_generate_one_at_a_time(
    name: str, folders: dict[str, Path], models: dict[str, ForeignModel]
):
    completions = generate(models[name], prompts(name), temperature=0)
    for prompt, completion in zip(prompts(name), completions, strict=True):
        expected = natively(folders[name], prompt)
        assert (list(completion.prompt_ids or ()), list(completion.token_ids or ())) == expected
    assert len({each.token_ids for each in completions}) > 2, "choose livelier models"


@pytest.mark.parametrize("name", EVERY)
def test_batching_order_and_duplicates_change_no_greedy_reply(
    name: str, models: dict[str, ForeignModel]
):
    asked = prompts(name)
    alone = [generate(models[name], [prompt], temperature=0)[0] for prompt in asked]
    order = [3, 1, 1, 0, 2, 3, len(asked) - 1]
    for batch_size in (3, 16):
        completions = generate(
            models[name], [asked[n] for n in order], batch_size=batch_size, temperature=0
        )
        assert token_ids(completions) == [alone[n].token_ids for n in order]
        for completion, n in zip(completions, order, strict=True):
            assert completion.logprobs == pytest.approx(alone[n].logprobs, abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_those_of_one_pass_over_prompt_and_reply(
    name: str, temperature: float, models: dict[str, ForeignModel]
):
    asked = prompts(name)
    replies = generate(models[name], asked, temperature=temperature)
    # One pass over a reply that holds an image's placeholder would want that image's features.
    placeholders = {*special_ids(models[name])} - models[name].end_ids
    pairs = [
        (prompt, reply)
        for prompt, reply in zip(asked, replies, strict=True)
        if placeholders.isdisjoint(reply.token_ids or ())
    ]
    assert len(pairs) > len(asked) / 2, "choose another seed"
    for prompt, reply in pairs:
        expected = recomputed(models[name], prompt, reply, temperature)
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_keyed_replies_depend_on_the_seed_and_their_own_prompt_alone(
    name: str, models: dict[str, ForeignModel]
):
    model, asked = models[name], prompts(name)
    alone = token_ids([generate(model, [prompt], keyed=True)[0] for prompt in asked])
    order = [2, 0, 1, 1, len(asked) - 1]
    for batch_size in (3, 16):
        policy = GeneratePolicy(
            model, Sampling(max_new_tokens=12, keyed=True), batch_size=batch_size
        )
        # What was asked before does not matter either.
        for numbers in (order, order[::-1]):
            drawn = asyncio.run(policy.generate([asked[n] for n in numbers]))
            assert token_ids(drawn) == [alone[n] for n in numbers]
    assert token_ids(generate(model, asked, keyed=True, seed=1)) != alone


@pytest.mark.parametrize("name", sorted(SEEING))
def test_pixels_have_the_number_format_of_the_weights(name: str, folders: dict[str, Path]):
    model = load_foreign(config(folders[name], dtype="bfloat16"), IMAGES)
    assert model.model.dtype is torch.bfloat16
    tensors = model.inputs(PICTURES[:2]).tensors
    assert tensors["pixel_values"].dtype is torch.bfloat16
    assert tensors["input_ids"].dtype is torch.int64
    assert len(generate(model, PICTURES[:2], max_new_tokens=2)) == 2


def test_replies_that_are_not_keyed_differ_in_a_group_and_follow_the_seed(
    models: dict[str, ForeignModel],
):
    group = PICTURES[:1] * 8
    first, same, other = (generate(models["gemma3"], group, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert len(set(token_ids(first))) > 4
    assert token_ids(first) != token_ids(other)


@pytest.mark.parametrize("keyed", [False, True])
def test_sampling_follows_the_model_s_distribution(keyed: bool, models: dict[str, ForeignModel]):
    model, asked = models["llama"], [ask(f"{number}?") for number in range(1000)]
    drawn = generate(model, asked, batch_size=1000, max_new_tokens=1, temperature=0.5, keyed=keyed)
    with torch.no_grad():
        logits = model.model(**model.inputs(asked).tensors).logits[:, -1]
    logprobs = (logits / 0.5).log_softmax(-1)
    # Of a token that was drawn as it should be, log p has this mean and variance.
    mean = (logprobs.exp() * logprobs).sum(-1)
    variance = (logprobs.exp() * logprobs**2).sum(-1) - mean**2
    found = torch.tensor([each.logprobs for each in drawn]).squeeze(1)
    assert abs((found - mean).sum()) < 4 * variance.sum().sqrt()
    shares = (
        torch.tensor([each.token_ids for each in drawn])
        .squeeze(1)
        .bincount(minlength=logprobs.shape[-1])
    )
    expected = logprobs.exp().sum(0)
    assert ((shares - expected).abs() < 5 * expected.sqrt() + 1).all()


OWN = {
    "do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.1, "num_beams": 3,
    "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 20, "max_length": 3,
}  # fmt: skip
"""Settings that models come with, each of which would change how replies are drawn."""


def with_settings(folder: Path, **settings: object) -> ForeignModel:
    path = folder / "generation_config.json"
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps({**told, **settings}))
    return load_foreign(config(folder), IMAGES)


@pytest.mark.parametrize("folder", ["gemma3", "llama"], indirect=True)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.5}])
def test_how_a_model_s_own_settings_would_draw_does_not_matter(
    folder: Path, sampling: dict[str, float], models: dict[str, ForeignModel]
):
    asked = prompts(folder.name)
    spoilt = generate(with_settings(folder, **OWN), asked, max_new_tokens=20, **sampling)
    assert spoilt == generate(models[folder.name], asked, max_new_tokens=20, **sampling)
    assert {each.finish_reason for each in spoilt} == {"stop", "length"}


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_tokens_that_a_model_s_settings_suppress_have_no_probability(folder: Path):
    shunned = [*range(2, 200)]
    drawn = generate(with_settings(folder, suppress_tokens=shunned), TEXTS * 5, temperature=3)
    assert {i for each in drawn for i in each.token_ids or ()}.isdisjoint(shunned)
    [free, *_] = generate(with_settings(folder, suppress_tokens=[]), TEXTS, temperature=0)
    [forced, *_] = generate(with_settings(folder, suppress_tokens=[*range(1, 402)]), TEXTS)
    assert set(free.token_ids or ()) & {*range(2, 402)}
    assert forced.logprobs != free.logprobs


@pytest.mark.parametrize("name", EVERY)
def test_a_reply_ends_with_its_end_token_or_is_cut(name: str, models: dict[str, ForeignModel]):
    model = models[name]
    completions = generate(model, prompts(name) * 4, temperature=2.0, max_new_tokens=30)
    for completion in completions:
        ids = completion.token_ids or ()
        is_stopped = completion.finish_reason == "stop"
        ends = [token in model.end_ids for token in ids]
        assert ends == [False] * (len(ids) - 1) + [is_stopped]
        assert is_stopped or len(ids) == 30
        plain = model.tokenizer.decode(ids, skip_special_tokens=True)
        assert completion.text == plain.replace("<image>", "")
    assert {each.finish_reason for each in completions} == {"stop", "length"}


def test_the_ends_of_a_reply_are_those_of_the_settings_and_of_the_tokenizer(
    folders: dict[str, Path], models: dict[str, ForeignModel], tmp_path: Path
):
    assert models["gemma3"].end_ids == {1, 4}
    assert models["idefics3"].end_ids == {1}
    folder = Path(shutil.copytree(folders["llama"], tmp_path / "llama"))
    assert with_settings(folder, eos_token_id=[7, 9]).end_ids == {1, 7, 9}
    (folder / "generation_config.json").unlink()
    assert load_foreign(config(folder), IMAGES).end_ids == {1}


def special_ids(model: ForeignModel) -> list[int]:
    """Of the special tokens and, where it is none, of an image's placeholder."""
    return [*model.tokenizer.added_tokens_decoder]


@pytest.mark.parametrize("name", EVERY)
def test_text_that_spells_a_control_token_does_not_become_one(
    name: str, models: dict[str, ForeignModel]
):
    model = models[name]
    special = special_ids(model)
    spelled = "".join(model.tokenizer.convert_ids_to_tokens(special)) + "<image><<image>image>"
    for hollow in prompts(name):
        told = [m.model_copy(update={"text": f"{spelled} so {spelled}"}) for m in hollow.messages]
        [expected] = model.inputs([hollow]).prompt_ids
        [found] = model.inputs([Prompt(messages=tuple(told))]).prompt_ids
        assert [i for i in found if i in special] == [i for i in expected if i in special]


def test_text_without_control_tokens_is_told_as_it_is_tags_included(
    models: dict[str, ForeignModel],
):
    told = "<think>[a|b]</think> <|x|> <image_1> <s <information>‹› " + "".join(
        f"<{tag}></{tag}>" for tag in TAGS
    )
    for name in ("llava", "qwen2"):
        [ids] = models[name].inputs([ask(told)]).prompt_ids
        assert told in models[name].tokenizer.decode(ids)


@pytest.mark.parametrize("folder", ["qwen2"], indirect=True)
def test_a_tag_of_the_grammar_that_is_a_model_s_token_stays_in_its_replies(folder: Path):
    model = load_foreign(config(folder), IMAGES)
    own = AutoTokenizer.from_pretrained(folder)
    own.add_special_tokens({"additional_special_tokens": ["<think>", "<|tool|>"]})
    own.save_pretrained(folder)
    tagged = load_foreign(config(folder), IMAGES)
    ids = own.convert_tokens_to_ids(["<think>", "<|tool|>", "<|im_end|>"])
    assert tagged.decode([*ids[:1], *ids[1:], 60]) == "<think>" + model.decode([60])
    assert ids[0] in tagged.inputs([ask("Write <think>")]).prompt_ids[0]


def test_an_image_for_a_model_that_reads_text_alone_is_refused(models: dict[str, ForeignModel]):
    with pytest.raises(UserError, match=r"reads text alone, and a prompt has an image; give a vis"):
        generate(models["llama"], [TEXTS[0], PICTURES[0]])


def test_a_conversation_that_the_template_refuses_is_named_in_one_line(
    models: dict[str, ForeignModel],
):
    twice = Prompt(messages=ask("hi").messages * 2)
    with pytest.raises(UserError) as caught:
        generate(models["gemma3"], [twice])
    assert "refuses a prompt (Conversation roles must alternate); give" in str(caught.value)
    assert "\n" not in str(caught.value)


class ImagesOnly(Qwen2_5_VLProcessor):
    """Qwen's own without its processor of videos, which would want torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_token, self.image_token_id = "<|image_pad|>", 5
        ProcessorMixin.__init__(
            self, image_processor, tokenizer, chat_template=tokenizer.chat_template
        )


@cache
def qwen() -> ForeignModel:
    """The tiny Qwen2.5-VL as any other family."""
    vlm = lively_vlm(IMAGES)
    vlm.model.generation_config = GenerationConfig(
        eos_token_id=vlm.tokenizer.eos_token_id, suppress_tokens=vlm.chat.banned_ids
    )
    processor = ImagesOnly(build_image_processor(), copy.deepcopy(tokenizer()))
    return ForeignModel(vlm.model, processor, IMAGES, name="qwen", max_pixels=10**6)


def test_a_model_that_trains_here_replies_alike_through_either_policy():
    asked = [ask("hi"), *PICTURES[:3], *TEXTS[1:]] * 2
    sampling = Sampling(temperature=0, max_new_tokens=24)
    ours = asyncio.run(TransformersPolicy(lively_vlm(IMAGES), sampling).generate(asked))
    theirs = asyncio.run(GeneratePolicy(qwen(), sampling).generate(asked))
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.model_copy(update={"logprobs": None}) == other.model_copy(
            update={"logprobs": None}
        )


class Watched(ImagesOnly):
    """Remembers the sizes of the images that it is given, by batch and prompt."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        super().__init__(image_processor, tokenizer)
        self.shown: list[list[list[tuple[int, int]]]] = []

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        self.shown.append(
            [[part["image"].size for part in told[0]["content"][:-1]] for told in conversation]
        )
        return super().apply_chat_template(conversation, *args, **kwargs)


def watched(max_pixels: int) -> ForeignModel:
    processor = Watched(build_image_processor(), copy.deepcopy(tokenizer()))
    return ForeignModel(qwen().model, processor, IMAGES, name="qwen", max_pixels=max_pixels)


def test_images_are_scaled_down_to_the_largest_area():
    model = watched(1800)
    sizes = [(20, 60), (30, 60), (60, 120), (3000, 20)]
    model.inputs([ask("?", *(picture(IMAGES, 3, *size) for size in sizes))])
    assert model.processor.shown == [[[(20, 60), (30, 60), (30, 60), (519, 3)]]]


def test_a_batch_holds_prompts_with_equally_many_images_and_no_more_than_its_size():
    model = watched(10**6)
    asked = [ask("hi"), *PICTURES[:3], ask("What is it?", TWO), ask("?", ONE), ask("ho")]
    generate(model, asked, batch_size=2, max_new_tokens=1)
    counts = [[len(sizes) for sizes in batch] for batch in model.processor.shown]
    assert counts == [[0, 0], [1, 1], [1], [2, 2]]


def test_a_batch_goes_on_until_each_of_its_replies_has_ended(models: dict[str, ForeignModel]):
    steps: list[int] = []
    core = models["gemma3"].model
    hook = core.register_forward_hook(lambda *_: steps.append(1))
    replies = generate(models["gemma3"], TEXTS, temperature=2, max_new_tokens=200)
    hook.remove()
    assert {(each.token_ids or ())[-1] for each in replies} == {1, 4}, "choose another seed"
    longest = max(len(each.token_ids or ()) for each in replies)
    assert longest <= len(steps) <= longest + 2 < 200


@pytest.mark.parametrize(
    ("said", "package"),
    [
        (
            "X requires the Torchvision library but it was not found.\nSee pytorch.org",
            "torchvision",
        ),
        ("\nX requires the PyAv library but … install it with:\n```\npip install av\n```", "av"),
        ("Package `num2words` is required. Install it with `pip install num2words`.", "num2words"),
        ("install it with pip: `pip\ninstall -U scikit-learn`.", "scikit-learn"),
        ("Using this needs Accelerate: `pip install 'accelerate>=1.1.0'`", "accelerate"),
    ],
)
def test_a_package_that_a_processor_wants_is_named_with_its_remedy(said: str, package: str):
    class Wanting(ImagesOnly):
        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            raise ImportError(said)

    processor = Wanting(build_image_processor(), copy.deepcopy(tokenizer()))
    model = ForeignModel(qwen().model, processor, IMAGES, name="a/b", max_pixels=1)
    with pytest.raises(UserError) as caught:
        model.inputs([ask("hi")])
    message = str(caught.value)
    assert message.startswith(f"a/b: the model needs {package}, which is not installed here (")
    assert f"(pip install {package})" in message
    assert "\n" not in message


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_folder_whose_processor_wants_torchvision_is_refused_with_the_remedy(tmp_path: Path):
    vlm = lively_vlm(IMAGES)
    vlm.save(tmp_path / "qwen")
    with pytest.raises(UserError, match=r"the model needs torchvision, .*pip install torchvision"):
        load_foreign(config(tmp_path / "qwen"), IMAGES)


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def with_type(model_type: str, **more: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        told = json.loads((folder / "config.json").read_bytes())
        told |= {"model_type": model_type, "architectures": None, **more}
        (folder / "config.json").write_text(json.dumps(told))

    return spoil


def torn(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


CODE = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}


def with_code(folder: Path) -> None:
    with_type("novel", auto_map=CODE)(folder)
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: ...\n")


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_template, "the model has no chat template; give an instruct model"),
        (with_type("vit"), "a model of the type 'vit' writes no text"),
        (with_type("novel"), "model type `novel`"),
        (with_code, "not a model that transformers can load"),
        (torn, "not a model that transformers can load"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "not a model that transformers can"),
        (shutil.rmtree, "not a model that transformers can load ("),
    ],
)
def test_a_folder_that_cannot_be_sampled_from_is_named_in_one_line(
    folder: Path, spoil: Callable[[Path], None], said: str
):
    spoil(folder)
    with pytest.raises(UserError) as caught:
        load_foreign(config(folder), IMAGES)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert said in message
    assert "\n" not in message
    assert not (folder / "ran").exists(), "code that came with the model has run"


def test_which_engine_a_model_needs_is_read_from_its_config_alone(
    folders: dict[str, Path], tmp_path: Path
):
    def named(**told: object) -> ModelConfig:
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(told))
        return config(folder)

    assert is_supported(ModelConfig())
    assert not any(is_supported(config(folder)) for folder in folders.values())
    for model_type in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        assert is_supported(named(model_type=model_type))
    for model_type in ("qwen2", "qwen3_vl_moe", "glm4v", "novel"):
        assert not is_supported(named(model_type=model_type))
    assert not is_supported(named(hidden_size=8))


@pytest.mark.parametrize(("base", "expected"), [("qwen2_5_vl", True), ("llama", False)])
def test_lora_weights_need_the_engine_of_their_base(base: str, expected: bool, tmp_path: Path):
    for name in ("base", "lora"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": base}))
    told = {"base_model_name_or_path": str(tmp_path / "base"), "peft_type": "LORA"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(told))
    assert is_supported(config(tmp_path / "lora")) is expected


@pytest.mark.parametrize("told", [None, "{"])
def test_a_model_that_is_not_there_is_named_before_an_engine_is_chosen(
    told: str | None, tmp_path: Path
):
    if told is not None:
        (tmp_path / "config.json").write_text(told)
    with pytest.raises(UserError) as caught:
        is_supported(config(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: not a model that transformers can load (")
    assert str(caught.value).endswith("give 'tiny', a folder saved by save_pretrained, or a hub id")


@pytest.mark.gpu
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"keyed": True}])
def test_on_a_gpu_replies_are_those_of_the_cpu(
    name: str, sampling: dict[str, float], folders: dict[str, Path], models: dict[str, ForeignModel]
):
    on_gpu = load_foreign(config(folders[name], device="cuda"), IMAGES)
    assert on_gpu.device.type == "cuda"
    asked = prompts(name)
    expected = generate(models[name], asked, **sampling)
    assert token_ids(generate(on_gpu, asked, **sampling)) == token_ids(expected)
