"""Which keys of the Open_vSwitch row are ours, from what we noted beside them. Pure.

`external_ids:millrace-keys` lists our keys behind the version of the notes. A list without version
is an older release's: it knew no computed keys, and each key in it is ours whatever it says.
`millrace-computed` has a digest of each value that the plan computed: one that a hand has changed
since is the hand's. `millrace-overwrote` has what a hand's keys said before the file's overwrote
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from dataplane.model.rows import OvsSetting

SettingKey = tuple[str, str]
"""Column of Open_vSwitch, and key in it."""

KEYS = "millrace-keys"
COMPUTED = "millrace-computed"
OVERWROTE = "millrace-overwrote"
NOTES = (KEYS, COMPUTED, OVERWROTE)
VERSION = "v2"

OTHER_CONFIG = "other_config"
"""The column that operators write to as well; keys of external_ids are ours if they are planned."""


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:12]


def words_of(text: str) -> dict[str, str]:
    """Words key=value of a note; a word that is none is left out."""
    return {key: value for key, found, value in (w.partition("=") for w in text.split()) if found}


@dataclass(frozen=True, slots=True)
class Owned:
    """Our keys; by key of other_config the digests of computed values, and what was overwritten."""

    keys: frozenset[SettingKey] = frozenset()
    digests: Mapping[str, str] = field(default_factory=dict)
    overwrote: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def noted(cls, external_ids: Mapping[str, str]) -> Owned:
        """What the notes in external_ids say; a word that is none is left out."""
        words = external_ids.get(KEYS, "").split()
        pairs = (word.partition(":") for word in words)
        keys = frozenset((column, key) for column, _, key in pairs if key)
        if VERSION not in words:
            return cls(keys)
        overwrote = words_of(external_ids.get(OVERWROTE, ""))
        return cls(
            keys,
            words_of(external_ids.get(COMPUTED, "")),
            {key: unquote(value) for key, value in overwrote.items()},
        )

    def notes(self) -> dict[str, str]:
        """The notes as keys of external_ids; an empty one is to be removed."""
        words = [VERSION, *(f"{column}:{key}" for column, key in sorted(self.keys))]
        return {
            KEYS: " ".join(words),
            COMPUTED: " ".join(f"{k}={v}" for k, v in sorted(self.digests.items())),
            OVERWROTE: " ".join(
                f"{k}={quote(v, safe='')}" for k, v in sorted(self.overwrote.items())
            ),
        }

    def settings(self, columns: Mapping[str, Mapping[str, str]]) -> dict[SettingKey, OvsSetting]:
        """Our keys that are there, as they are."""
        return {
            (column, key): OvsSetting(
                columns[column][key], column == OTHER_CONFIG and key in self.digests
            )
            for column, key in self.keys
            if key in columns.get(column, {}) and not self._taken(column, key, columns)
        }

    def foreign(self, other_config: Mapping[str, str]) -> dict[str, str]:
        """The keys of other_config that somebody else set, or changed since we did."""
        columns = {OTHER_CONFIG: other_config}
        ours = self.settings(columns)
        return {k: v for k, v in other_config.items() if (OTHER_CONFIG, k) not in ours}

    def change(
        self,
        wanted: Mapping[SettingKey, OvsSetting],
        dropped: Iterable[SettingKey],
        columns: Mapping[str, Mapping[str, str]],
    ) -> tuple[dict[SettingKey, str | None], Owned]:
        """What to write (None: remove), and what is ours then.

        A computed value gives way to a hand's, a named one does not; neither is a hand's removed.
        """
        foreign = self.foreign(columns.get(OTHER_CONFIG, {}))
        keys, digests, overwrote = set(self.keys), dict(self.digests), dict(self.overwrote)
        writes: dict[SettingKey, str | None] = {}

        def forget(column: str, key: str) -> None:
            keys.discard((column, key))
            if column == OTHER_CONFIG:
                digests.pop(key, None)
                overwrote.pop(key, None)

        for column, key in dropped:
            theirs = column == OTHER_CONFIG and key in foreign
            if (column, key) in keys and not theirs:
                writes[column, key] = None
            forget(column, key)
        for (column, key), setting in wanted.items():
            hand = foreign.get(key) if column == OTHER_CONFIG else None
            if setting.computed and hand is not None:
                forget(column, key)
                continue
            writes[column, key] = setting.value
            keys.add((column, key))
            if column != OTHER_CONFIG:
                continue
            digests.pop(key, None)
            if setting.computed:
                digests[key] = _digest(setting.value)
                overwrote.pop(key, None)
            elif hand is not None and hand != setting.value:
                overwrote[key] = hand
        return writes, Owned(frozenset(keys), digests, overwrote)

    def _taken(self, column: str, key: str, columns: Mapping[str, Mapping[str, str]]) -> bool:
        return (
            column == OTHER_CONFIG
            and key in self.digests
            and self.digests[key] != _digest(columns[column][key])
        )
