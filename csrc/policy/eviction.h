// Which resident expert goes when room is needed. Pure: no locks, no IO, no clock but the token count.
//
// Each has a twin in Python (hobbit_py.policies.eviction) that is its readable specification and decides alike.
#pragma once

#include "base/types.h"
#include "policy/precision.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hobbit {

// What the router of a layer chose for a batch, token by token.
struct Routing {
    uint16_t        layer_idx   = 0;
    uint32_t        n_used      = 0;
    uint32_t        n_tokens    = 0;
    const int32_t * expert_idxs = nullptr; // [n_tokens][n_used], a token's best expert first
    const Choice *  choices     = nullptr; // [n_tokens][n_used], what each is computed with; nullptr: all in hi
};

// One expert that a predictor expects to be used.
struct ExpectedUse {
    uint16_t layer_idx   = 0;
    uint16_t expert_idx  = 0;
    float    probability = 0; // of being among the experts that the layer selects
};

// Called by the cache's owner under its lock, so calls never overlap. Cheap: score() is called for every slot of a
// class when a victim is looked for.
class EvictionPolicy {
  public:
    virtual ~EvictionPolicy() = default;

    virtual const char * name() const = 0;

    // A layer routed a batch. Comes before the layer's experts are looked up, so victims of this very layer are judged
    // by what it tells. Layers come in the model's order, each once a forward pass.
    virtual void on_route(const Routing & routing) = 0;

    // What is expected of layers to come, as it was seen at `source_layer_idx`: after that layer's on_route(), before
    // anything is read ahead. `uses` [n] has those of a layer one after the other, each expert at most once. It
    // replaces what was expected of every layer that occurs in it; layers that do not occur keep what they had. A
    // predictor that matches whole requests may give every layer, passed ones too: reuse in the tokens to come.
    virtual void on_predict(uint16_t source_layer_idx, const ExpectedUse * uses, uint32_t n) {
        (void)source_layer_idx, (void)uses, (void)n;
    }

    // With which chance the token after the last one of the batch uses each expert of the layer that routed last, as
    // gates trained for the model say (predict/trained_gates.h): chances [n], n the layer's experts. After that layer's
    // on_route(), before its experts are looked up. Not called where nothing was trained, nor for a large batch.
    virtual void on_next_token(uint16_t layer_idx, const float * chances, uint32_t n) {
        (void)layer_idx, (void)chances, (void)n;
    }

    // How much the copy is worth keeping, 0 or more; the smallest is evicted, of equal ones that in the lowest slot.
    virtual double score(ExpertKey key) const = 0;

    // A new sequence begins.
    virtual void reset() = 0;
};

// A policy by name, with the parameters that differ from its defaults.
struct EvictionSpec {
    std::string                   name = "frequency";
    std::map<std::string, double> parameters;
};

// What a policy knows of the model.
struct EvictionModel {
    std::vector<uint32_t> n_expert;       // [n_layers]; layers without experts have 0
    double                lo_cost = 0.25; // bytes of a lo copy, over those of a hi copy; 0 without
};

// docs/policies.md describes each. Throws std::invalid_argument for an unknown name or parameter, with the known ones.
std::unique_ptr<EvictionPolicy> make_eviction_policy(const EvictionSpec & spec, const EvictionModel & model);

// Names of all policies, in the order of docs/policies.md.
std::vector<std::string> eviction_policy_names();

} // namespace hobbit
