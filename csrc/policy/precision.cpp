#include "policy/precision.h"

#include <algorithm>

namespace hobbit {

namespace {

class AlwaysHigh final : public PrecisionPolicy {
  public:
    void choose(uint16_t, const float *, const Resident *, uint32_t n_used, Choice * choices) const override {
        std::fill(choices, choices + n_used, Choice::hi);
    }
    bool is_exact() const override { return true; }
};

class AlwaysLow final : public PrecisionPolicy {
  public:
    void choose(uint16_t, const float *, const Resident * resident, uint32_t n_used, Choice * choices) const override {
        for (uint32_t i = 0; i < n_used; ++i) {
            choices[i] = resident[i] == Resident::hi ? Choice::hi : Choice::lo;
        }
    }
};

class Thresholds final : public PrecisionPolicy {
  public:
    Thresholds(float t1, float t2, bool lo_serves_hi) : t1_(t1), t2_(t2), lo_serves_hi_(lo_serves_hi) {}

    void choose(uint16_t, const float * gate_weights, const Resident * resident, uint32_t n_used,
                Choice * choices) const override {
        float covered = 0.0f;
        for (uint32_t i = 0; i < n_used; ++i) {
            choices[i] = choose_one(i, covered, resident[i]);
            covered += gate_weights[i];
        }
    }
    bool is_exact() const override { return t1_ >= 1.0f && !lo_serves_hi_; }

  private:
    Choice choose_one(uint32_t rank, float covered, Resident resident) const {
        if (resident == Resident::hi) {
            return Choice::hi;
        }
        if (rank == 0 || t1_ >= 1.0f || covered <= t1_) {
            return lo_serves_hi_ && resident == Resident::lo ? Choice::promote : Choice::hi;
        }
        return t2_ >= 1.0f || covered <= t2_ ? Choice::lo : Choice::skip;
    }

    float t1_, t2_;
    bool  lo_serves_hi_;
};

class WeightThresholds final : public PrecisionPolicy {
  public:
    WeightThresholds(double hi_above, float skip_below, float wait_above, double fall)
        : hi_above_(hi_above), fall_(fall), skip_below_(skip_below), wait_above_(wait_above) {}

    void choose(uint16_t layer_idx, const float * gate_weights, const Resident * resident, uint32_t n_used,
                Choice * choices) const override {
        const auto hi_above = static_cast<float>(hi_above_ - fall_ * layer_idx);
        for (uint32_t i = 0; i < n_used; ++i) {
            choices[i] = choose_one(hi_above, gate_weights[i], resident[i]);
        }
    }
    bool is_exact() const override { return hi_above_ <= 0.0 && fall_ >= 0.0 && wait_above_ <= 0.0f; }

  private:
    Choice choose_one(float hi_above, float weight, Resident resident) const {
        if (resident == Resident::hi) {
            return Choice::hi;
        }
        if (weight >= hi_above) {
            return resident == Resident::lo && weight < wait_above_ ? Choice::promote : Choice::hi;
        }
        return resident == Resident::lo || weight >= skip_below_ ? Choice::lo : Choice::skip;
    }

    double hi_above_, fall_;
    float  skip_below_, wait_above_;
};

class MassBudget final : public PrecisionPolicy {
  public:
    MassBudget(float lo_mass, float skip_mass) : lo_mass_(lo_mass), skip_mass_(skip_mass) {}

    void choose(uint16_t, const float * gate_weights, const Resident * resident, uint32_t n_used,
                Choice * choices) const override {
        std::fill(choices, choices + n_used, Choice::hi);
        float lo_spent = 0.0f, skip_spent = 0.0f;
        for (uint32_t i = n_used; i-- > 1;) {
            if (resident[i] == Resident::hi) {
                continue;
            }
            const float weight = gate_weights[i];
            if (resident[i] == Resident::none && skip_spent + weight <= skip_mass_) {
                skip_spent += weight;
                choices[i] = Choice::skip;
            } else if (lo_spent + weight <= lo_mass_) {
                lo_spent += weight;
                choices[i] = Choice::lo;
            }
        }
    }

  private:
    float lo_mass_, skip_mass_;
};

} // namespace

std::unique_ptr<PrecisionPolicy> make_always_high() { return std::make_unique<AlwaysHigh>(); }
std::unique_ptr<PrecisionPolicy> make_always_low() { return std::make_unique<AlwaysLow>(); }
std::unique_ptr<PrecisionPolicy> make_thresholds(float t1, float t2, bool lo_serves_hi) {
    return std::make_unique<Thresholds>(t1, t2, lo_serves_hi);
}
std::unique_ptr<PrecisionPolicy> make_weight_thresholds(double hi_above, float skip_below, float wait_above,
                                                        double fall) {
    return std::make_unique<WeightThresholds>(hi_above, skip_below, wait_above, fall);
}
std::unique_ptr<PrecisionPolicy> make_mass_budget(float lo_mass, float skip_mass) {
    return std::make_unique<MassBudget>(lo_mass, skip_mass);
}

} // namespace hobbit
