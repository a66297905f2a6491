// Nothing, as a cluster: by it the driver says how many clusters of so many blocks a GPU runs at once.

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) cluster() {}
