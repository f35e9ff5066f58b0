"""Where a checkpoint lies and what it contains, without loading it: free of torch, for the plan of units and `load`."""

import importlib.resources
import json
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, file_sha256

POCKET, SMOL, POCKET_CLIP = "pocket", "smol", "pocket_clip"


def endpoint_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The model's name and the base URLs of `NAME@URL,URL`; None for a checkpoint."""
    model, at, urls = name.partition("@http")
    return (model, tuple(f"{at[1:]}{urls}".split(","))) if at and model else None


def checkpoint_folder(name: str) -> Path | None:
    """The folder behind a checkpoint name, or None where it may be on the hub. `smol` is put together where it is not
    there yet; a ThroughlineError says what that lacks."""
    if name in {POCKET, POCKET_CLIP}:
        return Path(str(importlib.resources.files(f"throughline.mllm.{name}"))) / "checkpoint"
    if name == SMOL:
        from throughline.mllm.smol.assembly import smol_folder

        return smol_folder()
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def resolve_revision(name: str, hub: bool, revision: str | None = None) -> str | None:
    """The commit of a checkpoint on the hub: that of `revision` (`main` by default) as the hub has it now, or, where it
    cannot be reached, as this machine has fetched it. None for a local checkpoint.

    Raises a ThroughlineError where neither has the checkpoint.
    """
    if endpoint_of(name) or checkpoint_folder(name) is not None or not hub:
        return None
    import httpx2
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return str(HfApi().model_info(name, revision=revision, timeout=10).sha)
    except HFValidationError:
        what = "no such folder, and no name that a checkpoint on the hub can have"
        raise ThroughlineError(what, name, "check the path") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, httpx2.HTTPError) as error:
        fetched = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(fetched, str):
            return Path(fetched).parent.name
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ThroughlineError(
            f"the hub does not give this checkpoint ({reason})",
            name,
            "check its name, or fetch it while online",
        ) from error


def fingerprint_checkpoint(name: str, commit: str | None = None) -> str:
    """Hash of a local checkpoint's files by name and content; of a hub checkpoint, its name and commit; of `smol`, what
    it is made of; of a model behind an endpoint, its name."""
    if name == SMOL:
        from throughline.mllm.smol.assembly import recipe

        return content_hash(recipe())
    if (served := endpoint_of(name)) is not None:
        return content_hash({"endpoint": served[0]})
    folder = checkpoint_folder(name)
    if folder is None:
        return content_hash({"hub": name, "commit": commit})
    files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".jinja", ".txt", ".model"})
    return content_hash({p.name: file_sha256(p) for p in files})


def checkpoint_name(name: str) -> str:
    """What results call the checkpoint: a folder's own name, of a model behind an endpoint its name there, else the
    name as given."""
    if (served := endpoint_of(name)) is not None:
        return served[0]
    folder = Path(name).expanduser()
    return folder.resolve().name if name not in {POCKET, SMOL, POCKET_CLIP} and folder.is_dir() else name


def checkpoint_source(name: str, hub: bool = False) -> str:
    """What to open: the folder of `name`, or the name itself where the hub is allowed.

    Raises a ThroughlineError when it is no checkpoint, holds pickled weights only, has no vision tower or no chat
    template.
    """
    folder = None if endpoint_of(name) else checkpoint_folder(name)
    if folder is None:
        if hub or endpoint_of(name):
            return name
        raise ThroughlineError(
            "no such checkpoint folder",
            name,
            "name a folder, `pocket`, `smol`, or allow the hub (`--hub`, in a config `model.hub: true`)",
        )
    weights = list(folder.glob("*.safetensors"))
    if not weights and any(folder.glob("*.bin")):
        raise ThroughlineError("pickled weights are not loaded", folder, "convert the checkpoint to safetensors")
    if not (folder / "config.json").is_file() or not weights:
        raise ThroughlineError("no checkpoint in this folder", folder, "it needs config.json and *.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ThroughlineError(f"config.json is not JSON ({error})", folder) from None
    if not isinstance(config, dict) or "vision_config" not in config:
        family = config.get("model_type") if isinstance(config, dict) else None
        raise ThroughlineError(
            f"a {family!r} checkpoint is not an image-text-to-text model",
            folder,
            "use an InternVL -hf, Qwen-VL or LLaVA checkpoint",
        )
    texts = [file.read_text("utf-8") for file in folder.glob("*r_config.json")]  # of processor and tokenizer
    if texts and not any(folder.glob("chat_template*")) and not any('"chat_template"' in text for text in texts):
        raise no_chat_template(folder)
    return str(folder)


def no_chat_template(folder: Path | None = None) -> ThroughlineError:
    """For a checkpoint that cannot render a conversation."""
    return ThroughlineError("the checkpoint has no chat template", folder, "use its family's instruction-tuned one")
