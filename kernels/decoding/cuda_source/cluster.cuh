// Empty kernel in a cluster: the driver reports how many clusters of this size a GPU runs concurrently.

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) cluster() {}
