"""Publish a model folder to the Hub: stage the whole repository on disk, then upload it in one commit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from ..inference.pipeline_ecg_classification import EcgClassificationPipeline
from ..processing.errors import InputError
from ..training.folders import CARD, find_model_folder, load_model
from ..training.provenance import find_facts
from ..utils.files import atomic_folder, check_writable, folder_digests, read_state, write_json
from .model_card import RECORDING_CLASSIFIERS, make_card, read_card


STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Storage dtypes of published weights; 16 bits halve the size."""


class Staged(NamedTuple):
    """
    A repository on disk, exactly as it would be uploaded.

    Args:
        folder (`Path`): The folder.
        files (`dict[str, int]`): Size of each file [bytes] by its path in the repository, sorted.
        missing (`list[str]`): Missing information about the model, each as a short phrase.
        license (`str`, *optional*): License of the weights that the card states.
    """

    folder: Path
    files: dict[str, int]
    missing: list[str]
    license: str | None


def check_repo_id(repo_id: str) -> str:
    """
    Check the id of a Hub repository.

    Raises:
        InputError: If it is not a valid `ORG/NAME`.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = str(error).split(":")[0].rstrip(".")
        raise InputError(
            f"{repo_id!r} is not a repository id ({reason}): give ORG/NAME, such as your-name/ecg-model"
        ) from None
    if repo_id.count("/") != 1:
        raise InputError(f"{repo_id!r} has no owner: give ORG/NAME, such as your-name/{repo_id}")
    return repo_id


def check_revision(revision: str) -> str:
    """
    Check the name of a git branch.

    Raises:
        InputError: If it is invalid.
    """
    if not re.fullmatch(r"[\w][\w./-]*", revision) or ".." in revision or revision.endswith(("/", ".", ".lock")):
        raise InputError(f"{revision!r} is not a branch name: use letters, digits and dashes, such as draft or v1.0")
    return revision


def stage(
    path: str | Path,
    folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    license_name: str | None = None,
    dataset_id: str | None = None,
    card: str | Path | None = None,
    dtype: str = "float32",
) -> Staged:
    """
    Write a repository exactly as it would be uploaded.

    The model is loaded and saved again, which checks that it loads. The repository contains the weights as
    safetensors, the config with all Auto classes, the preprocessing, the code of both, the pipeline of a classifier,
    the card with `.eval_results`, and the files of the run from which the numbers in the card come.

    Args:
        path (`str` or `Path`): A model folder, or the output folder of a run.
        folder (`str` or `Path`): Output folder: new, empty, or staged before and unchanged since, which is replaced.
        repo_id (`str`): `ORG/NAME`, for the card.
        license, license_name, dataset_id: As in [`~hub.model_card.make_card`].
        card (`str` or `Path`, *optional*): A custom card instead of the generated one.
        dtype (`str`, *optional*, defaults to `"float32"`): Storage dtype of the weights, one of [`STORAGE_DTYPES`].
            The model computes in float32 in any case.

    Returns:
        [`Staged`]

    Raises:
        FileNotFoundError: If the model or card does not exist.
        InputError: If the model is incomplete, the repository id, the card or a file of the run is invalid, the output
            folder contains other files, or a weight exceeds the range of `dtype`.
    """
    check_repo_id(repo_id)
    if dataset_id is not None:
        check_repo_id(dataset_id)
    if dtype not in STORAGE_DTYPES:
        raise InputError(f"dtype is {dtype!r}: choose from {', '.join(STORAGE_DTYPES)}")
    source = find_model_folder(path)
    folder = check_writable(folder, inputs=[source])
    _check_free(folder, repo_id)
    if card is not None:
        stated = read_card(card).data.to_dict()["license"]
        if license not in (None, stated):
            raise InputError(
                f"the card {card} states the license {stated}, but --license is {license}: make them agree"
            )
        license = stated

    model, extractor, auto_class = load_model(source)
    facts = find_facts(source)
    made = make_card(
        repo_id,
        model.config,
        auto_class,
        extractor,
        facts,
        license=license,
        license_name=license_name,
        dataset_id=dataset_id,
        num_parameters=model.num_parameters(),
        dtype=dtype,
    )
    # Remove local paths and names of other checkpoints from the config.
    model.config._name_or_path = repo_id
    for part in (getattr(model.config, name) for name in model.config.sub_configs):
        if part is not None:
            part._name_or_path = ""
    with atomic_folder(folder) as partial:
        if auto_class in RECORDING_CLASSIFIERS:
            EcgClassificationPipeline(model=model, feature_extractor=extractor).save_pretrained(partial)
        else:
            model.save_pretrained(partial)
            extractor.save_pretrained(partial)
        if dtype != "float32":
            _store_as(partial, dtype)
        if (source / "tokenizer_config.json").is_file():
            AutoTokenizer.from_pretrained(source).save_pretrained(partial)
        card_text = str(made.card) if card is None else Path(card).read_text(encoding="utf-8")
        texts = {CARD: card_text, **made.eval_results}
        texts |= {name: json.dumps(content, indent=2) + "\n" for name, content in facts.items()}
        for name, text in texts.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        digests = folder_digests(partial)
        write_json(_record(folder), {"repository": repo_id, "files": digests})
    files = {name: (folder / name).stat().st_size for name in digests}
    return Staged(folder, files, made.missing, license)


def _store_as(folder: Path, dtype: str) -> None:
    """Convert the floating-point weights of a saved model to another dtype; its config keeps the compute dtype."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor.to(STORAGE_DTYPES[dtype])
                if not torch.isfinite(tensors[name]).all():
                    raise InputError(
                        f"the weights {name} exceed the range of {dtype}: store them as bfloat16 or float32"
                    )
        save_file(tensors, path, metadata=metadata)


def _record(folder: Path) -> Path:
    """The file beside a folder that records what was staged there, to detect changes before it is replaced."""
    return folder.with_name(f".{folder.name}.staged.json")


def _check_free(folder: Path, repo_id: str) -> None:
    """Refuse to replace anything but an unchanged folder that was staged for the same repository."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    staged = read_state(_record(folder), "choose another folder")
    if staged is None or not {"repository", "files"} <= staged.keys():
        raise InputError(f"{folder} contains files that were not staged by `clear-hug publish`: choose another folder")
    if staged["repository"] != repo_id:
        raise InputError(f"{folder} was staged for {staged['repository']}: choose another folder, or delete it")
    saved, current = staged["files"], folder_digests(folder)
    if changed := sorted(name for name in {*current, *saved} if current.get(name) != saved.get(name)):
        raise InputError(
            f"{folder} was changed after it was staged ({', '.join(changed[:3])}): choose another folder, and pass a "
            "card that you edited with --card"
        )


def upload(
    staged: Staged,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """
    Upload a staged repository in one commit.

    Args:
        staged ([`Staged`]): The staged repository; it is not modified.
        repo_id (`str`): `ORG/NAME`; created if it does not exist.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
        revision (`str`, *optional*): Branch to commit to, created if it does not exist; the main branch by default.
        create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request instead of committing.
        token (`str`, *optional*): Hub token; that of `hf auth login` or `HF_TOKEN` by default.
        message (`str`, *optional*): Commit message.

    Returns:
        `str`: URL of the commit or pull request.

    Raises:
        InputError: If there is no token or license, or the Hub cannot be reached or refuses the upload.
    """
    staged_in = f"the repository is staged in {staged.folder}"
    if revision is not None:
        check_revision(revision)
    token = token or get_token()
    if token is None:
        raise InputError(
            f"there is no Hub token: log in with `hf auth login`, or set HF_TOKEN, and try again; {staged_in}"
        )
    if not staged.license:
        raise InputError(
            f"the license of the weights is missing: set it with --license, for example cc-by-4.0; {staged_in}"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # Unlike `upload_folder`, this makes a single commit, so that no revision has an incomplete model.
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, str(staged.folder / name)) for name in staged.files],
            revision=revision,
            create_pr=create_pr,
            commit_message=message or f"Upload {repo_id.split('/')[-1]} with clear-hug-hf",
        )
    except Exception as error:  # the staged folder allows another attempt after any error
        raise InputError(f"{repo_id} was not published: {_reason(error, api.endpoint)}; {staged_in}") from error
    return str(commit.pr_url or commit.commit_url)


def _reason(error: Exception, endpoint: str) -> str:
    """A short description of an error of the Hub or the connection."""
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    server = getattr(error, "server_message", None)
    if status in (401, 403):
        return f"the Hub refuses the token ({server or status}); it needs the right to write there"
    if status is not None:
        return f"the Hub answered {status} ({server or str(error).splitlines()[0]})"
    name = type(error).__name__
    if name == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set: unset it"
    if isinstance(error, OSError) or "Connect" in name or "Timeout" in name or "Protocol" in name:
        return f"the Hub at {endpoint} cannot be reached ({name}): check the connection and try again"
    return " ".join(str(error).split()) or name
