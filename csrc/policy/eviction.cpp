#include "policy/eviction.h"

#include "policy/decayed_frequency.h"
#include "policy/lcu.h"
#include "policy/least_stale.h"
#include "policy/lfru.h"
#include "policy/lfu.h"
#include "policy/lru.h"
#include "policy/moe_infinity.h"
#include "policy/multidimensional.h"
#include "policy/next_use.h"
#include "policy/ranked_frequency.h"
#include "policy/two_level_lru.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

namespace hobbit {

namespace {

using Values = std::map<std::string, double>; // every parameter of a policy

struct Entry {
    std::string                                                                           name;
    Values                                                                                defaults;
    std::function<std::unique_ptr<EvictionPolicy>(const EvictionModel &, const Values &)> make;
};

template <class Policy, class... Names> Entry entry(const char * name, Values defaults, Names... names) {
    return {name, std::move(defaults), [=](const EvictionModel & model, const Values & values) {
                (void)values;
                return std::make_unique<Policy>(model, values.at(names)...);
            }};
}

const std::vector<Entry> & entries() {
    static const std::vector<Entry> all = {
        entry<Lru>("lru", {}),
        entry<DecayedFrequency>("frequency", {{"decay", 0.98}}, "decay"),
        entry<RankedFrequency>("ranked-frequency", {{"decay", 0.98}, {"later_weight", 0.3}}, "decay", "later_weight"),
        entry<NextUse>("next-use",
                       {{"decay", 0.98},
                        {"last_weight", 0.15},
                        {"layer_weight", 0.5},
                        {"follow_weight", 0.8},
                        {"mixed_follow_weight", 0.5},
                        {"later_weight", 0.3},
                        {"learning_rate", 0.04},
                        {"trained_weight", 0.5}},
                       "decay", "last_weight", "layer_weight", "follow_weight", "mixed_follow_weight", "later_weight",
                       "learning_rate", "trained_weight"),
        entry<Lfu>("lfu", {}),
        entry<Lfru>("lfru", {}),
        entry<Multidimensional>("multidimensional", {{"lru", 0.25}, {"lfu", 0.25}, {"lhu", 0.25}, {"fld", 0.25}}, "lru",
                                "lfu", "lhu", "fld"),
        entry<Lcu>("lcu", {}),
        entry<MoeInfinity>("moe-infinity", {}),
        entry<TwoLevelLru>("two-level-lru", {}),
        entry<LeastStale>("least-stale", {}),
    };
    return all;
}

template <class Items, class NameOf> std::string list_names(const Items & items, NameOf name_of) {
    std::string text;
    for (const auto & item : items) {
        text += (text.empty() ? "'" : ", '") + std::string(name_of(item)) + "'";
    }
    return text;
}

} // namespace

std::unique_ptr<EvictionPolicy> make_eviction_policy(const EvictionSpec & spec, const EvictionModel & model) {
    const auto & all   = entries();
    const auto   found = std::find_if(all.begin(), all.end(), [&](const Entry & e) { return e.name == spec.name; });
    if (found == all.end()) {
        throw std::invalid_argument("unknown eviction policy '" + spec.name + "': expected one of " +
                                    list_names(all, [](const Entry & e) { return e.name; }));
    }
    Values values = found->defaults;
    for (const auto & [name, value] : spec.parameters) {
        const auto known = values.find(name);
        if (known == values.end()) {
            throw std::invalid_argument(
                "eviction policy '" + spec.name + "' has no parameter '" + name + "': it has " +
                (values.empty() ? "none" : list_names(values, [](const auto & v) { return v.first; })));
        }
        // A decay above 1 would grow counts without end; a negative weight would keep the worst copies.
        if (!(value >= 0.0 && value <= 1.0)) {
            throw std::invalid_argument("parameter '" + name + "' of eviction policy '" + spec.name + "' is " +
                                        std::to_string(value) + ": expected 0 to 1");
        }
        known->second = value;
    }
    return found->make(model, values);
}

std::vector<std::string> eviction_policy_names() {
    std::vector<std::string> names;
    for (const Entry & e : entries()) {
        names.push_back(e.name);
    }
    return names;
}

} // namespace hobbit
