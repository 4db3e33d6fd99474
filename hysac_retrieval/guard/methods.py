"""Treatment of each name of qdrant-client by the guarded clients: guarded, passed on, or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """Treatment of the arguments of a guarded method.

    Attributes:
        passed: Those that cannot change which points are returned beyond what the condition allows.
        filter: The one with the caller's filter, to which the condition is joined.
        checked: Those that are checked or rewritten.
    """

    passed: frozenset[str]
    filter: str | None = None
    checked: frozenset[str] = frozenset()

    @property
    def arguments(self) -> frozenset[str]:
        """All arguments that are known."""
        return self.passed | self.checked | ({self.filter} if self.filter else frozenset())


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALWAYS = _names("collection_name consistency shard_key_selector timeout")
SHOWN = _names("with_payload with_vectors")
_RANKED = ALWAYS | SHOWN | _names("using limit score_threshold")
_QUERIED = _names("query prefetch search_params lookup_from")
_COUNTED = _names("exact")

METHODS: Mapping[str, Method] = {
    "query_points": Method(_RANKED | {"offset"}, "query_filter", _QUERIED),
    "query_points_groups": Method(_RANKED | {"group_by", "group_size"}, "query_filter", _QUERIED | {"with_lookup"}),
    "query_batch_points": Method(_names("collection_name consistency timeout"), None, _names("requests")),
    "scroll": Method(ALWAYS | SHOWN | _names("limit order_by offset"), "scroll_filter"),
    "retrieve": Method(ALWAYS | SHOWN, None, _names("ids")),
    "count": Method(_names("collection_name shard_key_selector timeout"), "count_filter", _COUNTED),
    "facet": Method(ALWAYS | _names("key limit"), "facet_filter", _COUNTED),
    "search_matrix_pairs": Method(ALWAYS | _names("limit sample using"), "query_filter"),
    "search_matrix_offsets": Method(ALWAYS | _names("limit sample using"), "query_filter"),
}
"""Methods that return points, or facts about points."""

TOLD = _names("collection_exists get_collection get_collections get_collection_aliases get_aliases info close")
"""Methods that are passed on as they are: they tell of collections, never of single points."""

REFUSED: Mapping[str, str] = {
    name: why
    for why, names in {
        "a guarded client only reads; write with the application's own client": (
            "batch_update_points clear_payload delete delete_payload delete_vectors overwrite_payload set_payload "
            "update_vectors upload_collection upload_points upsert create_collection recreate_collection "
            "update_collection delete_collection update_collection_aliases create_payload_index delete_payload_index "
            "create_vector_name delete_vector_name create_shard_key delete_shard_key"
        ),
        "it copies collections whole, unsafe points and all": (
            "create_snapshot delete_snapshot list_snapshots recover_snapshot create_full_snapshot delete_full_snapshot "
            "list_full_snapshots create_shard_snapshot delete_shard_snapshot list_shard_snapshots "
            "recover_shard_snapshot migrate"
        ),
        "it is for the administration of a server": (
            "cluster_collection_update cluster_status cluster_telemetry collection_cluster_info get_optimizations "
            "list_shard_keys recover_current_peer remove_peer"
        ),
        "it leads around the guard": (
            "http grpc_points grpc_collections init_options cloud_inference local_inference_batch_size"
        ),
        "it has nothing to do with collections; ask qdrant_client.QdrantClient": (
            "get_embedding_size list_image_models list_late_interaction_multimodal_models "
            "list_late_interaction_text_models list_sparse_models list_text_models DEFAULT_BATCH_SIZE"
        ),
    }.items()
    for name in names.split()
}
"""Everything else that clients have, and why it is refused. What is not named anywhere is refused, too."""
