// Which experts of a layer follow which from one token to the next, counted in bytes: a row is halved when it is full,
// so what it says is of its last one or two hundred uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hobbit {

class Followers {
  public:
    static constexpr uint8_t max_count = 255;

    explicit Followers(uint32_t n_expert)
        : n_expert_(n_expert), counts_(static_cast<size_t>(n_expert) * n_expert), n_uses_(n_expert) {}

    // A token used `expert_idxs` [n]; the one before it used those of the last call.
    void add(const int32_t * expert_idxs, uint32_t n);
    // What comes next follows nothing.
    void forget_last() { last_.clear(); }

    // After add(), sets chances [n_expert]: of being used after the last token, the mean of what its experts say. Each
    // says how often an expert followed it, as if it had been used `prior` times more and rates [n_expert] had held
    // then.
    void chances(const std::vector<double> & rates, double prior, std::vector<double> & chances) const;

  private:
    size_t               n_expert_;
    std::vector<uint8_t> counts_; // [expert][follower]
    std::vector<uint8_t> n_uses_; // [expert] that some token followed
    std::vector<int32_t> last_;
};

} // namespace hobbit
