"""adsh: asymmetric deep supervised hashing (Jiang and Li, AAAI 2018), the base row of the paper's tables 1 and 2."""

from queryopt.train.hash_network import HashNetwork
from queryopt.train.methods._asymmetric import AsymmetricMethod
from queryopt.train.methods._hash_layer import QUERY_FIELDS, HashLayerNetwork
from queryopt.train.network_config import NetworkConfig

__all__ = ["METHOD", "AdshMethod"]


class AdshMethod(AsymmetricMethod):
    """A hash layer on the backbone's features, the loss and the solved codes of queryopt, and nothing else of it.

    gamma is 200, as published. Two details are those of the paper's loss and not of the authors' release
    (jiangqy/ADSH-AAAI2018): pairs of different classes have S = 0, where that has -r, r being (similar pairs) / (other
    pairs), about 1 / (classes - 1); and the loss is scaled by 12 / M, which is a matter of the learning rate.
    """

    name = "adsh"
    unused = QUERY_FIELDS

    @classmethod
    def network(cls, config: NetworkConfig) -> HashNetwork:
        return HashLayerNetwork(config)


METHOD = AdshMethod
