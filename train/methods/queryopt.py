"""queryopt: the paper's method. A query a bit, rolled copies of the queries in training, solved codes."""

from queryopt.train.hash_network import HashNetwork
from queryopt.train.methods._asymmetric import AsymmetricMethod
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig

__all__ = ["METHOD", "QueryOptMethod"]


class QueryOptMethod(AsymmetricMethod):
    """*Learning Attribute-Aware Hash Codes for Fine-Grained Image Retrieval via Query Optimization* (ICML 2025)."""

    name = "queryopt"
    has_queries = True

    @classmethod
    def network(cls, config: NetworkConfig) -> HashNetwork:
        return QueryOpt(config)


METHOD = QueryOptMethod
