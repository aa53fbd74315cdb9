"""Reduces Discord's OpenAPI file to the requests that the bot may send.

    python tests/fakes/discord/trim_openapi.py openapi.json tests/fakes/discord/data/openapi.json

Keeps the request bodies of the paths below and every schema they refer to; drops responses and descriptions. The source
is https://github.com/discord/discord-api-spec (MIT).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

USED_OPERATIONS = {
    "/applications/{application_id}/commands": ("get", "put"),
    "/applications/@me": ("get",),
    "/channels/{channel_id}": ("get", "patch", "delete"),
    "/channels/{channel_id}/messages": ("get", "post"),
    "/channels/{channel_id}/messages/{message_id}": ("get", "patch", "delete"),
    "/channels/{channel_id}/messages/{message_id}/reactions/{emoji_name}/@me": ("put", "delete"),
    "/channels/{channel_id}/messages/{message_id}/threads": ("post",),
    "/channels/{channel_id}/thread-members/@me": ("put", "delete"),
    "/channels/{channel_id}/threads": ("post",),
    "/channels/{channel_id}/typing": ("post",),
    "/channels/{channel_id}/webhooks": ("get", "post"),
    "/gateway": ("get",),
    "/gateway/bot": ("get",),
    "/guilds/{guild_id}/members/@me": ("patch",),
    "/interactions/{interaction_id}/{interaction_token}/callback": ("post",),
    "/oauth2/applications/@me": ("get",),
    "/users/@me": ("get",),
    "/users/@me/channels": ("post",),
    "/users/@me/guilds": ("get",),
    "/webhooks/{webhook_id}": ("get", "delete"),
    "/webhooks/{webhook_id}/{webhook_token}": ("post", "patch", "delete"),
    "/webhooks/{webhook_id}/{webhook_token}/messages/@original": ("get", "patch", "delete"),
    "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}": ("get", "patch", "delete"),
}
USED_SCHEMAS = ("AvailableLocalesEnum",)
"""Those that no path refers to: of translations, which the file allows for any language."""
PREFIX = "#/components/schemas/"
DOCUMENTATION = {"description", "title", "x-discord-union", "format"}

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def references(node: Json) -> Iterator[str]:
    """The names of the schemas that a node refers to directly."""
    if isinstance(node, dict):
        target = node.get("$ref")
        if isinstance(target, str) and target.startswith(PREFIX):
            yield target.removeprefix(PREFIX)
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def without_documentation(node: Json, *, names: bool = False) -> Json:
    """Drop titles and descriptions. `names`: the keys of this node are field names, which stay whatever they are."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if names or key not in DOCUMENTATION}
        return {
            key: without_documentation(value, names=key == "properties" and not names) for key, value in kept.items()
        }
    return [without_documentation(value) for value in node] if isinstance(node, list) else node


def trim(spec: dict[str, Json]) -> dict[str, Json]:
    """The reduced file."""
    paths: dict[str, Json] = {}
    for path, methods in USED_OPERATIONS.items():
        operations = spec["paths"][path]  # type: ignore[index,call-overload]
        paths[path] = {method: _request(operations[method]) for method in methods}
    schemas = spec["components"]["schemas"]  # type: ignore[index,call-overload]
    wanted, queue = set(), [*references(paths), *USED_SCHEMAS]
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue.extend(references(schemas[name]))
    kept = {name: without_documentation(schemas[name]) for name in sorted(wanted)}
    return {"openapi": spec["openapi"], "info": spec["info"], "paths": paths, "components": {"schemas": kept}}


def _request(operation: Json) -> Json:
    assert isinstance(operation, dict)
    body = operation.get("requestBody")
    kept: dict[str, Json] = {"operationId": operation["operationId"]}
    if isinstance(body, dict):
        schema = body["content"]["application/json"]["schema"]  # type: ignore[index,call-overload]
        kept["schema"] = without_documentation(schema)
    return kept


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(trim(json.loads(source.read_text())), indent=1, sort_keys=True) + "\n")
