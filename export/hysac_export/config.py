"""Configuration of a training run: one frozen pydantic model, read from YAML or TOML.

The defaults are the published recipe as far as it applies to a model trained from scratch. What goes beyond it
(`LossConfig.joint`, `.radius`, `.words`, the convolutional stem, the head MLP) is off, and on in
`configs/mini-scenes.yaml`.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hysac_export.recipes import read_recipe
from hysac_retrieval.errors import TrainingError

Colour = tuple[float, float, float]

CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
"""Channel means of CLIP's preprocessing, of values in [0, 1]."""
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations of CLIP's preprocessing."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageTower(_Config):
    """The vision transformer; `size` and `patch` in pixels.

    ``stem="conv"`` puts residual convolutions with batch norm before it (stride 8; the patch is then 8 or 16).
    """

    size: int = Field(64, gt=0)
    patch: int = Field(8, gt=0)
    width: int = Field(192, gt=0)
    layers: int = Field(3, gt=0)
    head_width: int = Field(32, gt=0)
    mlp_ratio: float = Field(4.0, gt=0)
    stem: Literal["patch", "conv"] = "patch"
    head_mlp: bool = False
    mean: Colour = Field(CLIP_MEAN, description="Channel means that pixels in [0, 1] are normalised with.")
    std: Colour = Field(CLIP_STD, description="Channel standard deviations of the same.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"image size {self.size} is not a multiple of the patch size {self.patch}")
        if self.stem == "conv" and self.patch not in (8, 16):
            raise ValueError(f"the convolutional stem has a stride of 8 or 16 pixels; patch is {self.patch}")
        return self


class LoRAConfig(_Config):
    """Low-rank adapters on the towers; the defaults are those of the paper."""

    rank: int = Field(16, gt=0)
    alpha: float = Field(1.0, gt=0, description="An adapter counts alpha / rank.")
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        ("k_proj", "v_proj", "out_proj", "c_fc", "c_proj", "conv1"),
        min_length=1,
        description="Last parts of the names of modules: of open_clip's transformers the key, value and output "
        "projections, both layers of the MLP, and the patch embedding. The query projection is q_proj.",
    )


_BERT = ("key", "value", "dense")


def _of_bert(given: Any) -> Any:
    """Adapters whose targets, if none are named, are modules of BERT."""
    return {"targets": _BERT, **given} if isinstance(given, dict) else given


class TextTower(_Config):
    """The causal text transformer over a tokenizer learned from the captions, or a trained sentence encoder instead.

    Attributes:
        pretrained: A sentence encoder as sentence-transformers keeps it: a folder, an installed package that carries
            one, or a name on the hub. Vocabulary, width, layers and heads are then its own.
        tuning: What of it learns beside the head on its tokens: nothing, adapters (`lora`), or all.
        features: Width of that head.
        described: Architecture, pooling and ids of that encoder, filled in by `towers.resolve`.
    """

    context_length: int = Field(32, gt=2)
    vocab_size: int = Field(2048, gt=4)
    width: int = Field(192, gt=0)
    layers: int = Field(3, gt=0)
    heads: int = Field(6, gt=0)
    mlp_ratio: float = Field(4.0, gt=0)
    head_mlp: bool = False
    pretrained: str | None = None
    tuning: Literal["frozen", "adapted", "whole"] = "frozen"
    lora: Annotated[LoRAConfig, BeforeValidator(_of_bert)] = LoRAConfig(targets=_BERT)
    features: int = Field(512, gt=0)
    described: dict[str, Any] | None = None


class OpenClipConfig(_Config):
    """Towers that were trained before, in open_clip.

    Attributes:
        name: An architecture of open_clip, such as ``"ViT-L-14"``, or a JSON file in its format that describes one.
        pretrained: A tag that open_clip has for it, such as ``"openai"``, or the path of weights; None for random ones.
        lora: Adapters to train; None trains everything.
        tokenizer: A ``tokenizer.json`` for a vocabulary other than CLIP's.
        architecture: The architecture of that name, filled in by `towers.resolve`.
    """

    name: str
    pretrained: str | None = None
    lora: LoRAConfig | None = LoRAConfig()
    tokenizer: str | None = None
    architecture: dict[str, Any] | None = None


class ModelConfig(_Config):
    """Architecture. ``geometry="euclidean"`` is the CLIP baseline: unit vectors, cosine logits.

    With `open_clip` the towers come from there, and the sizes here are taken from it.
    """

    geometry: Literal["hyperbolic", "euclidean"] = "hyperbolic"
    dim: int = Field(128, gt=0)
    image: ImageTower = ImageTower()
    text: TextTower = TextTower()
    curvature: float = Field(1.0, ge=0.1, le=10.0, description="Initial curvature c.")
    learn_curvature: bool = True
    quick_gelu: bool = Field(False, description="x · σ(1.702 x) for GELU, as OpenAI's CLIP has it.")
    open_clip: OpenClipConfig | None = Field(None, description="Towers of open_clip instead of our own.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.open_clip and self.image.stem != "patch":
            raise ValueError("open_clip's towers take pixels; leave model.image.stem at 'patch'")
        if self.open_clip and self.text.pretrained:
            raise ValueError("model.open_clip brings a text tower of its own; leave out it or model.text.pretrained")
        if self.open_clip is None and self.text.width % self.text.heads:
            raise ValueError(f"text.width {self.text.width} does not divide among text.heads, {self.text.heads}")
        # open_clip gives a tower as many heads as fit.
        heads = self.image.width // self.image.head_width
        if self.open_clip is None and (heads == 0 or self.image.width % heads):
            raise ValueError(f"image.width {self.image.width} does not fit image.head_width, {self.image.head_width}")
        return self

    @property
    def adapters(self) -> LoRAConfig | None:
        """Adapters on the towers, if there are any."""
        if self.open_clip is not None:
            return self.open_clip.lora
        return self.text.lora if self.text.pretrained and self.text.tuning == "adapted" else None


Cone = Literal["T<I", "T*<I*", "I<T*", "T<T*"]
"""An entailment term: apex < what lies in its cone; T text, I image, * unsafe."""


class LossConfig(_Config):
    """Weights of the loss terms. The first five fields are the paper's; the rest goes beyond it and is off by default.

    Attributes:
        contrastive: Weight of each of the four contrastive terms.
        entailment: Weight of each entailment term.
        cones: The entailment terms, apex first. Without ``"I<T*"`` nothing orders safe and unsafe; ``"T<T*"``, not of
            the paper, is with `radius` all that pairs without pictures can learn from.
        cone_weights: Factors of the weight of an entailment term; 1 for a term that is not named.
        cone_power: Power of the radii at which cones are compared (`lorentz.radial_angle`); None is the paper's angle.
        half_apertures: A constant half aperture in degrees for a term, in place of asin(2K / (√c |x|)).
        aperture_scale: Factor s of the half aperture.
        published_normalisation: Divide by the number of terms and the sum of their weights, 7 (4 w_c + 3 w_e).
        joint: Contrastive term over the union of safe and unsafe (2B × 2B).
        radius: Hinge on the radii over all six pairs of groups.
        radius_gap: Margin between neighbouring groups, in units of distance.
        redirection: Contrastive term of unsafe points that were moved to the safe texts' radius.
        redirection_start: Share of the run after which it is ramped in (over a tenth of the run).
        words: Auxiliary prediction of the caption's words from the convolutional stem.
        entailment_start: Share of the run after which the entailment terms are ramped in (over a tenth of the run).
        words_end: Share of the main phase after which the word prediction is off.
        safe_clip: In the Euclidean geometry: redirect unsafe embeddings onto safe ones with this weight, as Safe-CLIP
            does, instead of keeping both apart; see `losses.safe_clip_terms`.
    """

    contrastive: float = Field(1.0, ge=0)
    entailment: float = Field(1.0, ge=0)
    cones: tuple[Cone, ...] = ("T<I", "T*<I*", "I<T*")
    cone_weights: dict[Cone, Annotated[float, Field(ge=0)]] = {}
    cone_power: float | None = Field(None, ge=1)
    half_apertures: dict[Cone, Annotated[float, Field(gt=0, le=90)]] = {}
    aperture_scale: float = Field(1.0, gt=0)
    published_normalisation: bool = True
    joint: float = Field(0.0, ge=0)
    radius: float = Field(0.0, ge=0)
    radius_gap: float = Field(0.3, gt=0)
    redirection: float = Field(0.0, ge=0)
    redirection_start: float = Field(0.0, ge=0, le=1)
    words: float = Field(0.0, ge=0)
    entailment_start: float = Field(0.0, ge=0, le=1)
    words_end: float = Field(1.0, ge=0, le=1)
    safe_clip: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _of_terms(self) -> Self:
        for field in ("cone_weights", "half_apertures"):
            if unknown := set(getattr(self, field)) - set(self.cones):
                raise ValueError(f"{field} names {sorted(unknown)}, which loss.cones does not")
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(_Config):
    """AdamW with warm-up and cosine decay; weight decay on matrices only."""

    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.2, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the run.")
    schedule: Literal["constant", "cosine"] = "cosine"
    clip_norm: float | None = Field(1.0, gt=0)


Sources = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]


class DataConfig(_Config):
    """The training data: quadruplets in files, or else scenes.

    Pictures and captions of scenes are drawn again every epoch. Both geometries learn from all four parts of a
    quadruplet.

    Attributes:
        train: Files of quadruplets, see `quadruplets.rows`; without any, the scenes. Paths begin where the command is
            run. Of the settings below `skip_bad`, only `augment` then counts.
        validation: Files of quadruplets to validate and calibrate on.
        holdout: Without `validation`, the share of the rows that is kept for that, chosen by their safe captions.
        skip_bad: Do without rows and pictures that cannot be read, instead of refusing the set.
        captions: Captions that a scene has; None for a new one whenever it is drawn. With few, a frozen text encoder
            has to read each of them only once.
    """

    train: Sources = ()
    validation: Sources = ()
    holdout: float = Field(0.1, ge=0, lt=1)
    skip_bad: bool = False
    quadruplets: int = Field(60_000, gt=0)
    seed: int = Field(0, ge=0)
    group: int = Field(1, gt=0, description="Quadruplets of a batch that share setting and light; 1 for none.")
    captions: int | None = Field(None, gt=0)
    styles: tuple[str, ...] | None = Field(None, description="Art styles; default: all the training styles.")
    omit: float = Field(0.0, ge=0, le=1, description="Share of scenes whose captions leave out a thing of both twins.")
    augment: float = Field(0.0, ge=0, le=1, description="Strength of colour, blur, and shift augmentation.")
    restyle: float = Field(0.0, ge=0, le=1, description="Share of sprites drawn in colours and shapes of their own.")

    @model_validator(mode="after")
    def _validation_goes_with_training(self) -> Self:
        if self.validation and not self.train:
            raise ValueError("data.validation goes with data.train; the scenes have a validation split of their own")
        return self


class TextsConfig(_Config):
    """Texts without pictures, of which a run learns some at every step beside its quadruplets; see `training.texts`.

    Attributes:
        policy: Pairs of safe and unsafe texts: the name of a bundled policy, or the YAML file of one. Its fit split is
            learned, and texts are calibrated on its validation split.
        pairs: Pairs of a step.
        company: How often each pair comes again among other safe sentences.
        unlabelled: Files of other texts, one in a line; ``"glosses"`` are 20,000 definitions of WordNet.
        others: Unlabelled texts of a step.
        radius: Weight of the hinge on the radii of pairs, among the pictures of the step.
        level: Weight of the same hinge between texts and captions, so that one threshold serves both.
        moved: Weight of the contrastive term of unsafe texts that were moved to the safe ones' radius.
        direction: Weight of the terms that keep the text encoder's cosines in the directions of the points.
        pictured: Weight of the term that lets texts find the pictures whose captions the encoder finds most like them.
        temperature: Of the cosines in these.
        weight_decay: Of the head on the tokens, which might learn the pairs by heart; None: as of everything else.
        noise: Standard deviation of Gaussian noise on the states of tokens in the run's `text_steps`, so that a head
            neither learns pairs by heart nor minds an encoder in int8.
    """

    policy: str = "general"
    pairs: int = Field(32, gt=1)
    company: int = Field(0, ge=0)
    unlabelled: Sources = ("glosses",)
    others: int = Field(64, gt=1)
    radius: float = Field(10.0, ge=0)
    level: float = Field(0.0, ge=0)
    moved: float = Field(0.5, ge=0)
    direction: float = Field(1.0, ge=0)
    pictured: float = Field(0.0, ge=0)
    temperature: float = Field(0.05, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    noise: float = Field(0.0, ge=0)


class ValidationConfig(_Config):
    """Validation while training: the weights of the best step are kept, and a run that gets no better ends."""

    every: int = Field(500, gt=0, description="Steps from one to the next; the last step is validated too.")
    quadruplets: int = Field(1000, gt=1)
    patience: int | None = Field(None, gt=0, description="Validations without a new best that end the run.")


class TrainConfig(_Config):
    """A whole run.

    Attributes:
        batch_size: Quadruplets of a step, of all processes and parts together: neither changes what is learned.
        accumulate: Parts that a step's batch is encoded in. Negatives still come from the whole batch: every part is
            encoded twice, first for the loss and then for the gradient, so memory falls and time rises by a third.
        gradient_checkpointing: Compute activations again instead of keeping them; less memory, a third more time.
        start_from: A finished run folder whose weights and vocabulary the run starts from; the path begins where the
            command is run. Towers have to be alike, the geometry may differ; ``model.open_clip.pretrained`` is then not
            loaded.
        precision: Of the towers; ``exp_map0`` and the losses are float32 always. ``fp16`` needs a GPU; ``auto`` is
            ``bf16`` if the device multiplies in it, else ``fp32``, because emulated bf16 is many times slower.
    """

    name: str = "hysac"
    seed: int = Field(0, ge=0)
    start_from: str | None = None
    steps: int = Field(2000, gt=0, description="Steps of the main phase.")
    stem_steps: int = Field(0, ge=0, description="Steps before it in which only the stem learns, from words.")
    text_steps: int = Field(0, ge=0, description="Steps after it in which only texts learn: pictures stand still.")
    batch_size: int = Field(128, gt=1)
    accumulate: int = Field(1, gt=0)
    gradient_checkpointing: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    threads: int | None = Field(None, gt=0)
    workers: int = Field(1, ge=0, description="Processes that draw batches.")
    checkpoint_every: int = Field(500, gt=0)
    log_every: int = Field(20, gt=0)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    validation: ValidationConfig | None = None
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    texts: TextsConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not divide into {self.accumulate} parts")
        if self.accumulate > 1 and self.model.image.stem == "conv":
            raise ValueError("the stem's batch norm needs the whole batch at once; set accumulate to 1")
        if self.loss.words and self.model.image.stem != "conv":
            raise ValueError("loss.words supervises the convolutional stem; set model.image.stem to 'conv'")
        if self.stem_steps and not self.loss.words:
            raise ValueError("stem_steps needs loss.words: words are all that the stem learns from on its own")
        if self.loss.safe_clip and self.model.geometry != "euclidean":
            raise ValueError("loss.safe_clip is a loss of cosines; set model.geometry to 'euclidean'")
        if self.texts and not (self.model.text.pretrained and self.model.geometry == "hyperbolic"):
            raise ValueError("texts need a text encoder that knows English, and radii: set model.text.pretrained")
        if self.text_steps and not self.texts:
            raise ValueError("text_steps needs texts, which are learned from beside the captions")
        return self

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return self.stem_steps + self.steps + self.text_steps

    @classmethod
    def load(cls, source: str | Path, /, **overrides: Any) -> Self:
        """Read a config file (YAML or TOML), or a bundled one by name (see `bundled_configs`).

        A file may say ``extends: NAME``, a bundled config or a file beside it, and hold only what differs from that.
        Overrides are dotted keys with values, for example ``{"optim.lr": 1e-3}`` (`TrainingError`: the file is missing
        or not valid; the message names the field).
        """
        path, values = read_recipe(source)
        for key, value in overrides.items():
            node = values
            *parents, leaf = key.split(".")
            for part in parents:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    raise TrainingError(f"{key} cannot be set: {part} is {node!r}, expected a table of settings")
            node[leaf] = deepcopy(value)  # a later key may reach into it
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise TrainingError(f"{path} is not a valid training config: {error}") from error
