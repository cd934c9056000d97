// Changes which experts a token gets in favour of resident ones: lossy, and off unless asked for.
//
// Pure but for the running means that a filter keeps, so each context has its own. Each has a twin in Python
// (hobbit_py.policies.router_filter) that is its readable specification.
#pragma once

#include "policy/precision.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

class RouterFilter {
  public:
    virtual ~RouterFilter() = default;

    // One token in one layer. scores [n_expert] are the router's, as logarithms of weights up to a constant, -inf: not
    // to be selected; `order` [n_expert] has the experts by falling score, of which the first n_used are selected.
    // Rearranges `order` so that its first n_used are the new selection, best first by score.
    virtual void select(uint16_t layer_idx, const float * scores, const Resident * resident, uint32_t n_expert,
                        uint32_t n_used, int32_t * order) = 0;
};

struct RouterFilterOptions {
    std::string name        = "none"; // "cache-prior", "reroute", "substitute" or "none"
    float       strength    = 0;      // of the bias, the tolerance or the margin of a near-tie; 0 changes nothing
    uint32_t    n_protected = 1;      // the best experts of a token are always selected
    float       fall        = 0; // of "reroute": strength is that of layer 0, and falls by this from each to the next
};

//   "cache-prior"  resident experts' scores gain strength x the layer's mean spread of scores (Mixture of
//                  Cache-Conditional Experts, arXiv 2412.00099)
//   "reroute"      a missing expert gives way to the best resident one that was not selected where the square of its
//                  weight over the other's, weights as shares of those selected, is below the tolerance
//   "substitute"   a missing expert that is within the margin of the first one not selected gives way to the best
//                  resident one that is within it on the other side (after SMoE, arXiv 2508.18983)
// nullptr for "none". Throws std::invalid_argument for another name, a strength outside 0..1 or an infinite fall.
std::unique_ptr<RouterFilter> make_router_filter(const RouterFilterOptions & options);

} // namespace hobbit
