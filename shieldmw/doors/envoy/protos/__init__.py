"""Messages of Envoy's and gRPC's protocols, trimmed to the fields in use.

The ``*_pb2`` modules are generated from the ``.proto`` files beside them: ``make protos``.
"""
