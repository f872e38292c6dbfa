"""A model of any family of transformers, to sample from: its own chat template and processor.

The families that also train here have a class of their own, `VisionLanguageModel`.

A prompt is rendered and tokenised as the model's makers do it, with one difference: where a
message's text spells a special token of the tokenizer or a placeholder of the processor, it is
told with lookalikes (`<|im_end|>` as `‹|im_end|›`), so that text from a tool can never become that
token. The tags of our own grammar stay as they are, also where a model has a token for one.

Two things that `model.chat` promises are not promised here. Text that spells no such token, but
that a tokenizer's own normalising turns into one, is not caught. And a reply that comes back in a
growing chat is tokenised again from its text: a prompt's ids need not extend the ids before it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image as Pil
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from visual_arft.errors import UserError
from visual_arft.images import Images, decode
from visual_arft.model.load import LOADING_ERRORS, base_of, device_of, find, why
from visual_arft.model.settings import ModelConfig
from visual_arft.tags import TAGS, blunt
from visual_arft.types import Image, Message, Prompt

_GRAMMAR = frozenset(f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/"))

_KEPT = (
    *("bos_token_id", "decoder_start_token_id", "forced_bos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
)
"""What a model's generation_config.json may say: which tokens there are, not how they are drawn."""

_PACKAGE = (
    re.compile(r"pip\s+install\s+(?:-\S+\s+)*['\"]?([\w.-]+)"),
    re.compile(r"requires the (?:🤗 )?([\w.-]+) library"),
)
"""How transformers names a package that is not installed, the surest first."""


@dataclass(frozen=True)
class ForeignInputs:
    """Prompts as one batch for a model's `generate`."""

    tensors: dict[str, Any]
    """What the model takes, on its device: ids filled up on the left, their mask, pixels…"""
    prompt_ids: tuple[tuple[int, ...], ...]
    """The ids of each prompt, image placeholders expanded."""


class ForeignModel:
    """Weights and processor of one model on one device."""

    def __init__(
        self, model: Any, processor: Any, images: Images, *, name: str, max_pixels: int
    ) -> None:
        """Wraps loaded parts; the model's generation settings become those of greedy decoding.

        Args:
            model: of transformers, with a `generate`.
            processor: of images and text; a model that reads text alone has a tokenizer here.
            images: where the bytes behind an `Image` are found.
            name: what errors call the model.
            max_pixels: larger images are scaled down to this area.
        """
        self.model = model
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.reads_images = hasattr(processor, "image_processor")
        self.name = name
        self._images = images
        self._max_pixels = max_pixels
        self._settle_template()
        if self.tokenizer.pad_token is None:
            # Any token will do: the mask covers it.
            self.tokenizer.pad_token = (
                self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
            )
        self.end_ids = _end_ids(model.generation_config, self.tokenizer)
        """The ids that end a reply."""
        self._control = _control_tokens(processor, self.tokenizer)
        self._dropped = frozenset(self.tokenizer.convert_tokens_to_ids(list(self._control)))
        model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self.end_ids) or None,
            **{name: getattr(model.generation_config, name, None) for name in _KEPT},
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def inputs(self, prompts: Sequence[Prompt]) -> ForeignInputs:
        """Prompts as one batch; raises `UserError` for what the model's makers did not foresee."""
        told = [[self._told(message) for message in prompt.messages] for prompt in prompts]
        try:
            made = self._processed(told)
        except ImportError as error:
            raise UserError(_missing(self.name, error)) from None
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.name}: its chat template or processor refuses a prompt ({why(error)}); "
                "give another model, or serve this one and give --engine openai"
            ) from None
        if "token_type_ids" not in inspect.signature(self.model.forward).parameters:
            made.pop("token_type_ids", None)
        masks = made["attention_mask"].bool()
        ids = zip(made["input_ids"], masks, strict=True)
        return ForeignInputs(
            {name: self._placed(value) for name, value in made.items()},
            tuple(tuple(row[mask].tolist()) for row, mask in ids),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens."""
        kept = [token for token in ids if token not in self._dropped]
        return self.tokenizer.decode(kept, clean_up_tokenization_spaces=False)

    def _settle_template(self) -> None:
        """Raises `UserError` for a model without a chat template; older ones keep it elsewhere."""
        self.processor.chat_template = self.processor.chat_template or self.tokenizer.chat_template
        if not self.processor.chat_template:
            raise UserError(f"{self.name}: the model has no chat template; give an instruct model")

    def _told(self, message: Message) -> dict[str, Any]:
        text = blunt(message.text, self._control)
        if self.reads_images:
            shown = [{"type": "image", "image": self._picture(each)} for each in message.images]
            return {"role": message.role, "content": [*shown, {"type": "text", "text": text}]}
        if message.images:
            raise UserError(
                f"{self.name}: the model reads text alone, and a prompt has an image; give a "
                "vision-language model, or tasks without images"
            )
        return {"role": message.role, "content": text}

    def _picture(self, image: Image) -> Pil.Image:
        picture = Pil.fromarray(decode(self._images.read(image)))
        scale = (self._max_pixels / (picture.width * picture.height)) ** 0.5
        if scale >= 1:
            return picture
        width, height = (max(1, int(side * scale)) for side in picture.size)
        return picture.resize((width, height), Pil.Resampling.BICUBIC)

    def _processed(self, told: list[list[dict[str, Any]]]) -> dict[str, Any]:
        filling = {"padding": True, "padding_side": "left"}
        how = {"processor_kwargs": filling}
        if not self.reads_images:
            how = {"padding": True, "tokenizer_kwargs": {"padding_side": "left"}}
        made = self.processor.apply_chat_template(
            told,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **how,
        )
        return dict(made)

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.model.dtype if value.is_floating_point() else None)


def load_foreign(config: ModelConfig, images: Images) -> ForeignModel:
    """The model a config names, of any family; its settings of training do not matter here.

    Raises:
        UserError: there is no such model, it writes no text, its code is not part of transformers,
            or its processor wants a package that is not installed.
    """
    device = device_of(config.device)
    try:
        find(config.path)
        model, processor = _parts(config.path, getattr(torch, config.dtype))
    except ImportError as error:
        raise UserError(_missing(config.path, error)) from None
    except LOADING_ERRORS as error:
        raise UserError(
            f"{config.path}: not a model that transformers can load ({why(error)}); give a folder "
            "saved by save_pretrained or a hub id, or serve the model and give --engine openai"
        ) from None
    model.to(device)
    return ForeignModel(model, processor, images, name=config.path, max_pixels=config.max_pixels)


def _parts(path: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model of a folder or hub id, and its processor or tokenizer."""
    # Said and not left open: transformers would ask at the keyboard.
    safe = {"trust_remote_code": False}
    config: Any = AutoConfig.from_pretrained(base_of(path), **safe)
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        processor: Any = AutoProcessor.from_pretrained(path, **safe)
        if not hasattr(processor, "image_processor"):
            raise ValueError("there is no processor of images beside the model")
        auto: Any = AutoModelForImageTextToText
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        processor, auto = AutoTokenizer.from_pretrained(path, **safe), AutoModelForCausalLM
    else:
        raise ValueError(f"a model of the type {config.model_type!r} writes no text")
    return auto.from_pretrained(path, dtype=dtype, **safe), processor


def _missing(name: str, error: ImportError) -> str:
    found = [match[1].lower() for each in _PACKAGE if (match := each.search(str(error)))]
    package = found[0] if found else error.name
    remedy = f"install it (pip install {package})" if package else "install what it needs"
    return (
        f"{name}: the model needs {package or 'a package'}, which is not installed here "
        f"({why(error)}); {remedy}, or serve the model elsewhere and give --engine openai"
    )


def _end_ids(settings: Any, tokenizer: Any) -> frozenset[int]:
    told = settings.eos_token_id
    ends = {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])}
    return frozenset(ends - {None})


def _control_tokens(processor: Any, tokenizer: Any) -> frozenset[str]:
    """What a text may not spell: the special tokens, and the placeholders of images and such."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    own = {value for name, value in vars(processor).items() if name.endswith("_token")}
    placeholders = {value for value in own if isinstance(value, str)}
    return frozenset(special | placeholders) - _GRAMMAR
