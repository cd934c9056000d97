#include "policy/router_filter.h"

#include "policy/cache_prior.h"
#include "policy/reroute.h"
#include "policy/substitute.h"

#include <cmath>
#include <stdexcept>

namespace hobbit {

std::unique_ptr<RouterFilter> make_router_filter(const RouterFilterOptions & options) {
    if (options.name == "none") {
        return nullptr;
    }
    if (!(options.strength >= 0.0f && options.strength <= 1.0f)) {
        throw std::invalid_argument("a router filter's strength is " + std::to_string(options.strength) +
                                    " and must be between 0 and 1");
    }
    if (!std::isfinite(options.fall)) {
        throw std::invalid_argument("a router filter's fall is " + std::to_string(options.fall) +
                                    " and must be a finite number");
    }
    if (options.name == "cache-prior") {
        return std::make_unique<CachePrior>(options.strength, options.n_protected);
    }
    if (options.name == "reroute") {
        return std::make_unique<Reroute>(options.strength, options.n_protected, options.fall);
    }
    if (options.name == "substitute") {
        return std::make_unique<Substitute>(options.strength, options.n_protected);
    }
    throw std::invalid_argument("unknown router filter '" + options.name +
                                "'; known are cache-prior, reroute, substitute and none");
}

} // namespace hobbit
