#pragma once
#include "ptx.cuh"

/// The expert of this rank that an id names, or -1.
DEVICE int local_expert(const int* expert_map, int global_experts, int id) {
    if (id < 0 || id >= global_experts) return -1;
    return expert_map ? expert_map[id] : id;
}
