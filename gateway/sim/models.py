"""Served names: aliases of one model, and LoRA adapters, which have it as their parent."""

from hashlib import blake2b

from gateway.sim.schema import ApiError, Json


class ModelNames:
    """Which names a client may use, and which name its answer carries."""

    def __init__(self, aliases: tuple[str, ...], loras: tuple[str, ...]) -> None:
        self._aliases = aliases
        self._loras = {name: f"/adapters/{name}" for name in loras}

    @property
    def base(self) -> str:
        """The first alias: the name of the model in answers and metrics."""
        return self._aliases[0]

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the LoRA adapters."""
        return tuple(self._loras)

    def check(self, name: object) -> None:
        """404 unless the model is served; no name means the one that is."""
        if name and name not in self._aliases and name not in self._loras:
            raise ApiError(
                404,
                "NotFoundError",
                f"The model `{name}` does not exist. Valid aliases: {', '.join(self._aliases)}.",
                "model",
            )

    def check_pooling(self, name: object) -> None:
        """The same for pooling, which vLLM words otherwise."""
        if name and name not in self._aliases and name not in self._loras:
            raise ApiError(404, "NotFoundError", f"The model `{name}` does not exist.")

    def adapter(self, name: object) -> str | None:
        """The adapter of this name."""
        return name if isinstance(name, str) and name in self._loras else None

    def answered(self, name: object) -> str:
        """The name in the answer: an adapter keeps its own, an alias gets the first."""
        return self.adapter(name) or self.base

    def load(self, name: str, path: str, *, again: bool) -> None:
        """Add an adapter. Raises ``ApiError`` as vLLM does."""
        problem = None
        if not name or not path:
            problem = "Both 'lora_name' and 'lora_path' must be provided."
        elif name in self._aliases:
            problem = f"The lora adapter '{name}' conflicts with a served base model."
        elif name in self._loras and not again:
            problem = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        if problem is not None:
            raise ApiError(400, "InvalidUserInput", problem)
        self._loras[name] = path

    def unload(self, name: str) -> None:
        """Remove an adapter. Raises ``ApiError`` as vLLM does."""
        if not name:
            text = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise ApiError(400, "InvalidUserInput", text)
        if name not in self._loras:
            text = f"The lora adapter '{name}' cannot be found."
            raise ApiError(404, "NotFoundError", text)
        del self._loras[name]

    def cards(self, created: int, max_model_len: int, salt: str) -> list[Json]:
        """The list of ``/v1/models``: first the aliases, then the adapters."""
        cards = [self._card(n, self.base, None, max_model_len) for n in self._aliases]
        cards += [self._card(n, path, self.base, None) for n, path in self._loras.items()]
        for card in cards:
            card["created"] = created
            digest = blake2b(f"{salt}/{card['id']}".encode(), digest_size=8).hexdigest()
            card["permission"] = [_permission(created, f"modelperm-{digest}")]
        return cards

    @staticmethod
    def _card(name: str, root: str, parent: str | None, length: int | None) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": length,
            "permission": [],
        }


def _permission(created: int, name: str) -> Json:
    return {
        "id": name,
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
