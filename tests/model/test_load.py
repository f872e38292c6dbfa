from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tiny_vlm import FreeEnv, ask, picture, reward_of, tokenizer
from visual_arft.errors import UserError
from visual_arft.images import MemoryImages, decode
from visual_arft.model.load import load
from visual_arft.model.settings import ModelConfig
from visual_arft.model.tiny import SPECIAL
from visual_arft.model.vlm import VisionLanguageModel
from visual_arft.policies import Sampling
from visual_arft.policies.transformers import TransformersPolicy
from visual_arft.training.grpo import Game, Grpo
from visual_arft.training.settings import GrpoConfig, OptimizerConfig
from visual_arft.types import Prompt, Task

IMAGES = MemoryImages()
PICTURES = [picture(IMAGES, 1, 60, 40), picture(IMAGES, 2, 100, 90)]
PROMPT = ask("What does the sign say?", *PICTURES)


def config(path: Path, **more: object) -> ModelConfig:
    return ModelConfig.model_validate({"path": str(path), "device": "cpu", **more})


def text_config(**more: object) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer()) + 13,  # real models have more rows than tokens, too
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
        **more,
    }


def special_ids() -> dict[str, Any]:
    ids = tokenizer().convert_tokens_to_ids(list(SPECIAL[3:]))
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {**dict(zip(names, ids, strict=True)), "tie_word_embeddings": False}


def qwen2_vl() -> tuple[Any, int]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(text_config=text_config(), vision_config=vision, **special_ids())
    return Qwen2VLForConditionalGeneration(config), 14


def qwen2_5_vl() -> tuple[Any, int]:
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_heads": 2,
        "out_hidden_size": 48,
        "window_size": 56,
        "fullatt_block_indexes": [0, 2],
    }
    config = Qwen2_5_VLConfig(text_config=text_config(), vision_config=vision, **special_ids())
    return Qwen2_5_VLForConditionalGeneration(config), 14


def qwen3_vl() -> tuple[Any, int]:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_heads": 2,
        "out_hidden_size": 48,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 2],
    }
    config = Qwen3VLConfig(
        text_config=text_config(head_dim=16), vision_config=vision, **special_ids()
    )
    return Qwen3VLForConditionalGeneration(config), 16


FAMILIES: list[Callable[[], tuple[Any, int]]] = [qwen2_vl, qwen2_5_vl, qwen3_vl]


@pytest.fixture(params=FAMILIES, ids=lambda make: make.__name__)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return published(request.param, tmp_path)


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return published(qwen2_5_vl, tmp_path)


def published(make: Callable[[], tuple[Any, int]], tmp_path: Path) -> Path:
    """A model's folder, as its makers would leave it."""
    path = tmp_path / "published"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, patch_size = make()
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    size = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    Qwen2VLImageProcessorPil(size=size, patch_size=patch_size).save_pretrained(path)
    return path


def trained(
    vlm: VisionLanguageModel, folder: Path, reference: VisionLanguageModel | None
) -> dict[str, Any]:
    """The numbers of one round of GRPO, in which long replies are worth more."""
    game = Game(
        env=FreeEnv(),
        tools={},
        tasks=lambda start, count: [
            Task(id=f"t{n}", question="What?", answers=(), images=(PICTURES[n % 2],))
            for n in range(start, start + count)
        ],
        score=reward_of(lambda text: float(len(text) % 7)),
    )
    settings = GrpoConfig(
        steps=1,
        prompts_per_step=2,
        group_size=3,
        micro_batch_size=4,
        max_new_tokens=6,
        kl_coef=0.1,
        optimizer=OptimizerConfig(lr=1e-2),
    )
    [done] = Grpo(vlm, game, settings, seed=0, folder=folder, reference=reference).rounds()
    return done.metrics


def logits_of(vlm: VisionLanguageModel, prompt: Prompt = PROMPT) -> torch.Tensor:
    inputs = vlm.inputs([vlm.chat.encode(prompt).ids], prompt.images, left=False)
    with torch.no_grad():
        return vlm.core.lm_head(vlm.hidden(inputs).last_hidden_state)


def plain_logits(model: Any, folder: Path, prompt: Prompt = PROMPT) -> torch.Tensor:
    """What transformers makes of the same prompt, without a line of ours but the ids.

    Its `AutoProcessor` would need torchvision for videos; tokenizer and image processor do not.
    """
    tokens = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    chat = VisionLanguageModel(model, tokens, processor, IMAGES).chat
    ids = torch.tensor([chat.encode(prompt).ids])
    pictures = processor(
        images=[decode(IMAGES.read(i)) for i in prompt.images], return_tensors="pt"
    )
    with torch.no_grad():
        return model.eval()(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == chat.image_token_id).int(),
            **pictures,
        ).logits


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_a_published_model_of_any_shape_samples_and_gives_the_logits_that_transformers_gives(
    folder: Path,
):
    vlm = load(config(folder), IMAGES)
    expected = plain_logits(AutoModelForImageTextToText.from_pretrained(folder), folder)
    torch.testing.assert_close(logits_of(vlm), expected)
    policy = TransformersPolicy(vlm, Sampling(max_new_tokens=8))
    completions = asyncio.run(policy.generate([PROMPT, ask("hi"), PROMPT]))
    assert [len(each.token_ids or ()) for each in completions] == [8, 8, 8]


def test_all_weights_train_one_step_and_load_again_in_transformers_with_equal_logits(
    folder: Path, tmp_path: Path
):
    settings = config(folder)
    vlm = load(settings, IMAGES)
    before = logits_of(vlm)
    numbers = trained(vlm, tmp_path / "checkpoints", load(settings, IMAGES))
    assert numbers["kl"] == pytest.approx(0.0, abs=1e-6)
    assert not torch.allclose(logits_of(vlm), before, atol=1e-3)
    checkpoint = tmp_path / "checkpoints" / "step-000001"
    vlm.save(tmp_path / "model")
    for left in (tmp_path / "model", checkpoint):
        again = AutoModelForImageTextToText.from_pretrained(left)
        torch.testing.assert_close(plain_logits(again, left), logits_of(vlm))
    resumed = load(settings, IMAGES, checkpoint=checkpoint)
    torch.testing.assert_close(logits_of(resumed), logits_of(vlm))


def test_lora_weights_train_one_step_and_load_again_in_peft_with_equal_logits(
    folder: Path, tmp_path: Path
):
    settings = config(folder, lora_rank=2)
    vlm = load(settings, IMAGES)
    before = logits_of(vlm)
    numbers = trained(vlm, tmp_path / "checkpoints", None)
    assert numbers["kl"] == 0.0
    assert not torch.allclose(logits_of(vlm), before, atol=1e-3)
    left = tmp_path / "checkpoints" / "step-000001"
    again = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(folder), left)
    torch.testing.assert_close(plain_logits(again.get_base_model(), left), logits_of(vlm))
    resumed = load(settings, IMAGES, checkpoint=left)
    torch.testing.assert_close(logits_of(resumed), logits_of(vlm))
    learned = [
        {n for n, p in each.model.named_parameters() if p.requires_grad} for each in (vlm, resumed)
    ]
    assert learned[0] == learned[1]


def test_lora_weights_are_on_the_language_model_only_and_begin_as_the_seed_says(qwen: Path):
    settings = config(qwen, lora_rank=2)
    one, same, other = (load(settings, IMAGES, seed=seed).model for seed in (0, 0, 1))
    learned = [name for name, value in one.named_parameters() if value.requires_grad]
    assert len(learned) == 3 * 7 * 2  # layers x projections x (A and B)
    assert all("language_model" in name and "lora_" in name for name in learned)
    assert all(torch.equal(value, weights(same)[name]) for name, value in weights(one).items())
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_a_frozen_vision_tower_stays_as_it_is_while_the_rest_learns(qwen: Path, tmp_path: Path):
    vlm = load(config(qwen, freeze_vision=True), IMAGES)
    before = weights(vlm.model)
    trained(vlm, tmp_path / "checkpoints", load(config(qwen), IMAGES))
    moved = {
        name for name, value in weights(vlm.model).items() if not torch.equal(value, before[name])
    }
    assert moved == {name for name in before if "visual" not in name}


def test_loading_leaves_the_global_random_generator_where_it_was(qwen: Path, tmp_path: Path):
    settings = config(qwen, lora_rank=2)
    state = torch.random.get_rng_state()
    load(settings, IMAGES).save(tmp_path / "lora")
    load(settings, IMAGES, checkpoint=tmp_path / "lora")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_are_scaled_down_to_max_pixels_and_no_further(qwen: Path):
    large = picture(IMAGES, 3, 200, 200)
    for max_pixels, side in ((10**6, 128), (60 * 60, 60), (28 * 28, 28)):
        vlm = load(config(qwen, max_pixels=max_pixels), IMAGES)
        assert vlm.image_tokens(large) == (side // 28) ** 2
        assert vlm.pixels(large)[1].tolist() == [1, side // 28 * 2, side // 28 * 2]


def test_an_image_size_in_the_words_of_older_models_is_understood(qwen: Path):
    path = qwen / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["size"]
    path.write_text(json.dumps({**settings, "min_pixels": 28 * 28, "max_pixels": 84 * 84}))
    for max_pixels, tokens in ((10**6, 9), (56 * 56, 4)):
        vlm = load(config(qwen, max_pixels=max_pixels), IMAGES)
        assert vlm.image_tokens(picture(IMAGES, 3, 200, 200)) == tokens


def test_weights_are_loaded_in_the_format_that_is_asked_for(qwen: Path, tmp_path: Path):
    settings = config(qwen, dtype="bfloat16", lora_rank=2)
    vlm = load(settings, IMAGES)
    assert vlm.core.dtype is torch.bfloat16
    trained(vlm, tmp_path / "checkpoints", None)
    again = load(settings, IMAGES, checkpoint=tmp_path / "checkpoints" / "step-000001")
    torch.testing.assert_close(logits_of(again), logits_of(vlm))


def lacking(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def torn(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def text_only(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def garbled(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    "spoil",
    [
        lacking("config.json"),
        lacking("model.safetensors"),
        lacking("tokenizer.json"),
        lacking("preprocessor_config.json"),
        torn,
        text_only,
        garbled,
    ],
)
def test_a_folder_that_is_no_whole_vision_language_model_is_named_in_one_line(
    qwen: Path, spoil: Callable[[Path], None]
):
    spoil(qwen)
    with pytest.raises(UserError) as caught:
        load(config(qwen), IMAGES)
    message = str(caught.value)
    assert message.startswith(f"{qwen}: not a vision-language model that transformers can load (")
    assert message.endswith("give 'tiny', a folder saved by save_pretrained, or a hub id")
    assert "\n" not in message


def test_a_path_that_is_not_there_is_named_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"missing: not a vision-language model .*hub id$"):
        load(config(tmp_path / "missing"), IMAGES)


def test_a_checkpoint_of_the_other_kind_is_refused(qwen: Path, tmp_path: Path):
    whole, lora = (config(qwen, lora_rank=rank) for rank in (0, 2))
    load(lora, IMAGES).save(tmp_path / "lora")
    with pytest.raises(UserError, match=r"holds all weights, but lora_rank is 2; set it to 0"):
        load(lora, IMAGES, checkpoint=qwen)
    with pytest.raises(UserError, match=r"holds LoRA weights, but lora_rank is 0; set it above 0"):
        load(whole, IMAGES, checkpoint=tmp_path / "lora")


@pytest.mark.parametrize(("device", "found"), [("gpu0", "is not known"), ("cuda:99", "torch sees")])
def test_a_device_that_is_not_there_is_named_in_one_line(qwen: Path, device: str, found: str):
    with pytest.raises(UserError, match=f"^device '{device}'.* {found}.*give auto"):
        load(config(qwen, device=device), IMAGES)


def test_lora_weights_loaded_as_a_model_sample_but_do_not_train(qwen: Path, tmp_path: Path):
    whole = load(config(qwen, lora_rank=2), IMAGES)
    trained(whole, tmp_path / "checkpoints", None)
    left = tmp_path / "checkpoints" / "step-000001"
    vlm = load(config(left), IMAGES)
    torch.testing.assert_close(logits_of(vlm), logits_of(whole))
    with pytest.raises(UserError, match="no weight of the model can be trained"):
        trained(vlm, tmp_path / "others", vlm)


@pytest.mark.gpu
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_on_a_gpu_a_model_trains_goes_on_from_its_checkpoint_and_agrees_with_the_cpu(
    folder: Path, tmp_path: Path, lora_rank: int
):
    settings = config(folder, device="cuda", lora_rank=lora_rank)
    vlm = load(settings, IMAGES)
    trained(vlm, tmp_path / "checkpoints", None if lora_rank else load(settings, IMAGES))
    left = tmp_path / "checkpoints" / "step-000001"
    on_gpu = load(settings, IMAGES, checkpoint=left)
    on_cpu = load(config(folder, lora_rank=lora_rank), IMAGES, checkpoint=left)
    torch.testing.assert_close(logits_of(on_gpu), logits_of(vlm))
    torch.testing.assert_close(logits_of(on_gpu).cpu(), logits_of(on_cpu), atol=1e-3, rtol=1e-3)
