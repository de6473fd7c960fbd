"""What the API server does with a request once it is read: the rules of reading and writing."""

from __future__ import annotations

import copy
import datetime
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.apistandin import admission, crds, endings, failure, managed, patches, rules, structural
from tests.apistandin.failure import Cause, Object
from tests.apistandin.kinds import BUILT_IN, Kind
from tests.apistandin.pages import Page, page_of
from tests.apistandin.selectors import Predicate
from tests.apistandin.steps import (
    Options,
    check_delete_options,
    complete,
    decoded,
    desired,
    generated,
    same,
    served_as,
    success,
    utc_now,
    whole,
)
from tests.apistandin.store import Store

_OWN_METADATA = (
    "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "generation",
    "deletionGracePeriodSeconds", "selfLink",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write comes to."""

    code: int
    obj: Object
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Cluster:
    """Objects, kinds and the rules; knows nothing of HTTP."""

    store: Store = field(default_factory=Store)
    now: Callable[[], datetime.datetime] = utc_now
    random: random.Random = field(default_factory=random.Random)
    kinds: dict[tuple[str, str, str], Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.read_kinds()
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            body: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self.create(self.kinds["", "v1", "namespaces"], "", body, Options("kube-apiserver"))

    def timestamp(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    # Reading

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        obj = self.store.of(kind.key).get((namespace, name))
        if obj is None:
            raise failure.not_found(kind.group, kind.plural, name)
        return obj

    def page(
        self, kind: Kind, namespace: str, selects: Predicate, *, limit: int = 0,
        revision: int | None = None, token: str = "",
    ) -> Page:  # fmt: skip
        """A list, at a revision if one is asked for, from where a token says."""
        return page_of(self.store, kind.key, namespace, selects, limit, revision, token)

    # Writing

    def create(self, kind: Kind, namespace: str, body: Object, options: Options) -> Answer:
        obj, warnings = decoded(kind, namespace, body, options)
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise failure.bad_request("resourceVersion should not be set on objects to be created")
        for key in _OWN_METADATA:
            metadata.pop(key, None)
        if not metadata.get("name") and metadata.get("generateName"):
            taken = {name for at, name in self.store.of(kind.key) if at == namespace}
            metadata["name"] = generated(metadata["generateName"], taken, self.random)
        if not metadata.get("name"):
            cause = Cause(
                "metadata.name",
                "Required value: name or generateName is required",
                "FieldValueRequired",
            )
            raise failure.invalid(kind.group, kind.kind, "", [cause])
        name = metadata["name"]
        self._check_namespace(kind, namespace, name)
        if endings.ends(self, kind):
            raise failure.method_not_allowed("create")
        if (namespace, name) in self.store.of(kind.key):
            raise failure.already_exists(kind.group, kind.plural, name)
        if kind.status:
            obj.pop("status", None)
        metadata["uid"] = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        metadata["creationTimestamp"] = self.timestamp()
        if kind.generation:
            metadata["generation"] = 1
        self._finish(kind, None, obj)
        who = self._manager(kind, options, "Update", "")
        managed.write(obj, managed.after_update(None, obj, whole(kind), who))
        return Answer(201, self._commit(kind, None, obj, options), warnings)

    def replace(
        self, kind: Kind, namespace: str, name: str, body: Object, sub: str, options: Options
    ) -> Answer:
        obj, warnings = decoded(kind, namespace, body, options)
        if obj["metadata"].get("name", name) != name or not obj["metadata"].get("name"):
            text = f"the name of the object ({obj['metadata'].get('name', '')}) does not match "
            raise failure.bad_request(f"{text}the name on the URL ({name})")
        if kind.create_on_update and (namespace, name) not in self.store.of(kind.key):
            raise failure.not_implemented(f"PUT that creates {kind.plural}")
        before = self.get(kind, namespace, name)
        if not obj["metadata"].get("resourceVersion") and not kind.unconditional:
            text = "Invalid value: 0: must be specified for an update"
            raise failure.invalid(
                kind.group, kind.kind, name, [Cause("metadata.resourceVersion", text)]
            )
        if obj["metadata"].get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
            text = f"Precondition failed: UID in precondition: {obj['metadata']['uid']}, "
            text += f"UID in object meta: {before['metadata']['uid']}"
            raise failure.conflict(kind.group, kind.plural, name, text)
        return Answer(200, self._update(kind, before, obj, sub, options), warnings)

    def patch(
        self, kind: Kind, namespace: str, name: str, media: str, body: Any, sub: str,
        options: Options,
    ) -> Answer:  # fmt: skip
        if media == patches.APPLY:
            return self._apply(kind, namespace, name, body, sub, options)
        if media == patches.STRATEGIC and kind.custom:
            raise failure.unsupported_media(media, [patches.JSON, patches.MERGE, patches.APPLY])
        before = self.get(kind, namespace, name)
        current = served_as(kind, before)
        if media == patches.JSON:
            patched = patches.json_patch(current, body)
        elif not isinstance(body, dict):
            raise failure.bad_request("a patch of this kind is an object")
        elif media == patches.MERGE:
            patched = patches.merge(current, body)
        else:
            patched = patches.strategic(current, body, whole(kind))
        if not isinstance(patched.get("metadata"), dict) or patched["metadata"].get("name") != name:
            raise failure.bad_request("the name of the object does not match the name on the URL")
        obj, warnings = decoded(kind, namespace, patched, options)
        return Answer(200, self._update(kind, before, obj, sub, options), warnings)

    def _apply(
        self, kind: Kind, namespace: str, name: str, body: Object, sub: str, options: Options
    ) -> Answer:
        if not isinstance(body, dict):
            raise failure.bad_request("an applied configuration is an object")
        body = copy.deepcopy(body)
        if (body.get("metadata") or {}).get("managedFields"):
            raise failure.bad_request("metadata.managedFields must be nil")
        # An applied configuration is partial: defaults and completeness are the merged object's.
        config, warnings = decoded(kind, namespace, body, options, partial=True)
        if config["metadata"].setdefault("name", name) != name:
            raise failure.bad_request("the name of the object does not match the name on the URL")
        before = self.store.of(kind.key).get((namespace, name))
        if sub == "status":
            config = {
                key: config[key]
                for key in ("apiVersion", "kind", "metadata", "status")
                if key in config
            }
            config["metadata"] = {"name": name}
        elif kind.status:
            config.pop("status", None)
        who = self._manager(kind, options, "Apply", sub)
        if before is None:
            if sub or config["metadata"].get("uid"):
                raise failure.not_found(kind.group, kind.plural, name)
            self._check_namespace(kind, namespace, name)
            return self._apply_new(kind, namespace, config, who, options, warnings)
        sent = config["metadata"].pop("resourceVersion", None)
        if sent is not None and sent != before["metadata"]["resourceVersion"]:
            raise failure.stale(kind.group, kind.plural, name)
        try:
            applied = managed.apply(before, config, whole(kind), who, force=options.force)
        except managed.Conflicts as problem:
            raise failure.conflict(
                kind.group, kind.plural, name, str(problem), problem.causes
            ) from None
        obj = applied.obj | {"metadata": dict(applied.obj["metadata"])}
        after = self._update(kind, before, obj, sub, options, applied.managers)
        return Answer(200, after, warnings)

    def _apply_new(
        self, kind: Kind, namespace: str, config: Object, who: managed.Manager, options: Options,
        warnings: tuple[str, ...],
    ) -> Answer:  # fmt: skip
        who.fields = set(managed.leaves(config, whole(kind)))
        obj = copy.deepcopy(config)
        obj["metadata"]["uid"] = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        obj["metadata"]["creationTimestamp"] = self.timestamp()
        if kind.namespaced:
            obj["metadata"]["namespace"] = namespace
        if kind.generation:
            obj["metadata"]["generation"] = 1
        complete(kind, obj)
        self._finish(kind, None, obj)
        managed.write(obj, [who])
        return Answer(201, self._commit(kind, None, obj, options), warnings)

    def _update(
        self, kind: Kind, before: Object, obj: Object, sub: str, options: Options,
        managers: list[managed.Manager] | None = None,
    ) -> Object:  # fmt: skip
        """Put a whole object in the place of another, through the main resource or its status."""
        name, old = before["metadata"]["name"], before["metadata"]
        sent = obj["metadata"]
        if sent.get("resourceVersion") not in (None, "", old["resourceVersion"]):
            raise failure.stale(kind.group, kind.plural, name)
        # Only a PUT's uid is a precondition. A patch's is a change of what cannot change, and in a
        # patch of a custom object's status all metadata is put back before anybody looks at it.
        changed = sent.get("uid", old["uid"]) != old["uid"]
        if changed and not (kind.custom and sub == "status"):
            text = f'Invalid value: "{sent["uid"]}": field is immutable'
            raise failure.invalid(kind.group, kind.kind, name, [Cause("metadata.uid", text)])
        obj = copy.deepcopy(obj)
        if sub == "status":
            fields = obj["metadata"].get("managedFields")
            obj = copy.deepcopy(before) | ({"status": obj["status"]} if "status" in obj else {})
            if fields is not None:
                obj["metadata"]["managedFields"] = fields
        elif kind.status:
            obj.pop("status", None)
            if "status" in before:
                obj["status"] = copy.deepcopy(before["status"])
        for key in _OWN_METADATA:
            obj["metadata"].pop(key, None)
            if key in old:
                obj["metadata"][key] = old[key]
        obj["apiVersion"] = f"{kind.group}/{kind.version}" if kind.group else kind.version
        complete(kind, obj)
        self._finish(kind, before, obj)
        if kind.generation and desired(kind, before) != desired(kind, obj):
            obj["metadata"]["generation"] = old.get("generation", 0) + 1
        if managers is None:
            # What the writer sends as managedFields is not taken, but for an empty list, which
            # forgets all managers.
            emptied = obj["metadata"].get("managedFields") in ([], [{}])
            base = served_as(kind, before)
            if emptied and "managedFields" in before["metadata"]:
                base = base | {"metadata": {k: v for k, v in old.items() if k != "managedFields"}}
            who = self._manager(kind, options, "Update", sub)
            managers = managed.after_update(base, obj, whole(kind), who)
        managed.write(obj, managers)
        return self._commit(kind, before, obj, options)

    def delete(
        self, kind: Kind, namespace: str, name: str, body: Object, options: Options
    ) -> Answer:
        before = self.get(kind, namespace, name)
        check_delete_options(kind, before, body)
        grace = body.get("gracePeriodSeconds")
        metadata = before["metadata"]
        lingers = kind.deleting is not None and kind.deleting(before) and grace != 0
        special = kind.key in (endings.SPACES, endings.DEFINITIONS)
        if not (metadata.get("finalizers") or lingers or special):
            if not options.dry_run:
                self._remove(kind, before)
            if kind.answers_object:
                return Answer(200, before)
            return Answer(200, success(kind, before))
        if metadata.get("deletionTimestamp") and not special:
            return Answer(200, before)
        after = copy.deepcopy(before)
        seconds = (
            (
                grace
                if grace is not None
                else before["spec"].get("terminationGracePeriodSeconds", 30)
            )
            if lingers
            else 0
        )
        after["metadata"]["deletionTimestamp"] = self.timestamp()
        after["metadata"]["deletionGracePeriodSeconds"] = seconds
        if metadata.get("generation"):
            after["metadata"]["generation"] = metadata["generation"] + 1
        if kind.key == endings.SPACES:
            after["status"] = {**after.get("status", {}), "phase": "Terminating"}
        elif special:
            held = [one for one in metadata.get("finalizers") or () if one != endings.CLEANUP]
            after["metadata"]["finalizers"] = [*held, endings.CLEANUP]
        return Answer(200, self._commit(kind, before, after, options))

    def delete_collection(
        self, kind: Kind, namespace: str, selects: Predicate, body: Object, options: Options
    ) -> list[Object]:
        page = self.page(kind, namespace, selects)
        for obj in page.items:
            metadata = obj["metadata"]
            self.delete(kind, metadata.get("namespace", ""), metadata["name"], body, options)
        return page.items

    # Steps of a write

    def _finish(self, kind: Kind, before: Object | None, obj: Object) -> None:
        """Fill in and refuse what is wrong."""
        if kind.key == endings.DEFINITIONS:
            if causes := [*crds.check(obj)]:
                raise failure.invalid(kind.group, kind.kind, obj["metadata"]["name"], causes)
            crds.establish(obj, self.timestamp())
        causes = [*admission.check_metadata(kind, obj)]
        causes += structural.validate(
            {k: v for k, v in obj.items() if k != "metadata"}, kind.schema
        )
        if not causes:
            admission.fill(kind, obj, before, self.store.of(kind.key).values())
            causes += admission.check(kind, obj)
        if before is not None:
            causes += admission.check_update(kind, before, obj)
        if kind.custom and not causes:
            old = before if before is not None else rules.ABSENT
            causes += rules.broken(obj, kind.schema, "", old)
        if causes:
            raise failure.invalid(kind.group, kind.kind, obj["metadata"]["name"], causes)

    def _commit(self, kind: Kind, before: Object | None, obj: Object, options: Options) -> Object:
        """Store an object, unless nothing is different; take it away if its end has come."""
        if before is not None and same(before, obj):
            return before
        if options.dry_run:
            return obj
        key = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        metadata = obj["metadata"]
        done = metadata.get("deletionTimestamp") and not metadata.get("finalizers")
        waits = metadata.get("deletionGracePeriodSeconds") or kind.key == endings.SPACES
        if done and not waits:
            self._remove(kind, obj)
            return obj
        metadata["resourceVersion"] = str(self.store.next_revision())
        self.store.write(kind.key, key, obj)
        if kind.key == endings.DEFINITIONS:
            self.read_kinds()
        if metadata.get("deletionTimestamp"):
            endings.finish(self)
        return obj

    def _remove(self, kind: Kind, obj: Object) -> None:
        metadata = obj["metadata"]
        self.store.write(kind.key, (metadata.get("namespace", ""), metadata["name"]), None)
        if kind.key == endings.DEFINITIONS:
            self.read_kinds()
        endings.finish(self)

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.namespaced:
            return
        space = self.store.of(("", "namespaces")).get(("", namespace))
        if space is None:
            raise failure.not_found("", "namespaces", namespace)
        if space["metadata"].get("deletionTimestamp"):
            text = f"unable to create new content in namespace {namespace} because it is being "
            text += "terminated"
            raise failure.forbidden(kind.group, kind.plural, name, text)

    def _manager(self, kind: Kind, options: Options, operation: str, sub: str) -> managed.Manager:
        return managed.Manager(options.manager, operation, kind.api_version, sub, self.timestamp())

    # Kinds

    def read_kinds(self) -> None:
        """Serve the kinds of the definitions that there are, beside those built in."""
        found = list(BUILT_IN)
        for crd in self.store.of(endings.DEFINITIONS).values():
            found += crds.kinds_of(crd)
        self.kinds = {(kind.group, kind.version, kind.plural): kind for kind in found}
