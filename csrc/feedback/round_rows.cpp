#include "feedback/round_rows.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <limits>

namespace hobbit {

namespace {

constexpr size_t max_width  = feedback_block;
constexpr size_t max_groups = feedback_block / 16;

// Several sums, so that the compiler may use vectors without reordering one.
float dot(const float * a, const float * b, size_t n) {
    std::array<float, 16> sums{};
    size_t                i = 0;
    for (; i + sums.size() <= n; i += sums.size()) {
        for (size_t k = 0; k < sums.size(); ++k) {
            sums[k] += a[i + k] * b[i + k];
        }
    }
    float sum = 0.0F;
    for (; i < n; ++i) {
        sum += a[i] * b[i];
    }
    for (const float partial : sums) {
        sum += partial;
    }
    return sum;
}

void add_scaled(float * to, const float * from, float scale, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        to[i] += scale * from[i];
    }
}

// Within the bounds; a number that is none becomes the lowest.
int32_t nearest(float value, int32_t lowest, int32_t highest) {
    if (!(value > static_cast<float>(lowest))) {
        return lowest;
    }
    if (value >= static_cast<float>(highest)) {
        return highest;
    }
    return lowest + static_cast<int32_t>(value - static_cast<float>(lowest) + 0.5F);
}

// The level whose value is nearest; a number that is none becomes the lowest.
class NearestLevel {
  public:
    explicit NearestLevel(const std::vector<float> & values) {
        bounds_.fill(std::numeric_limits<float>::infinity());
        for (size_t i = 1; i < values.size(); ++i) {
            bounds_[i - 1] = (values[i - 1] + values[i]) / 2.0F;
        }
    }

    uint8_t operator()(float value) const {
        int32_t level = 0;
        for (size_t i = 0; i + 1 < max_levels; ++i) {
            level += value >= bounds_[i] ? 1 : 0;
        }
        return static_cast<uint8_t>(level);
    }

  private:
    std::array<float, max_levels> bounds_; // between a level and the next
};

// One row within one block of columns, and what its errors do to the products.
class RowBlock {
  public:
    RowBlock(const RoundingFormat & format, const NearestLevel & nearest_level, const float * moments, size_t width)
        : format_(format), nearest_level_(nearest_level), moments_(moments), width_(width) {}

    void set(const float * weights, const float * supers, const float * super_mins, uint8_t * levels, int8_t * steps,
             uint8_t * minimums) {
        weights_    = weights;
        supers_     = supers;
        super_mins_ = super_mins;
        levels_     = levels;
        steps_      = steps;
        minimums_   = minimums;
    }

    void improve(uint32_t n_rounds) {
        std::copy_n(levels_, width_, kept_levels_.data());
        std::copy_n(steps_, n_groups(), kept_steps_.data());
        if (minimums_ != nullptr) {
            std::copy_n(minimums_, n_groups(), kept_minimums_.data());
        }
        const float before = measure();
        for (uint32_t round = 0; round < n_rounds; ++round) {
            const bool changed_levels = sweep_levels();
            if (!sweep_groups() && !changed_levels) {
                break;
            }
        }
        sweep_levels();
        if (!(measure() <= before)) { // rounding errors of this arithmetic: only where there is nothing to gain
            restore();
        }
    }

  private:
    size_t n_groups() const { return width_ / format_.group; }

    float step_of(size_t group) const {
        return supers_[group * format_.group / format_.super_block] * static_cast<float>(steps_[group]);
    }

    float minimum_of(size_t group) const {
        return minimums_ == nullptr
                   ? 0.0F
                   : super_mins_[group * format_.group / format_.super_block] * static_cast<float>(minimums_[group]);
    }

    float value_of(size_t column) const { return format_.values[levels_[column]]; }

    const float * moments_of(size_t column) const { return moments_ + column * width_; }

    // Errors and pulls from the integers as they are; returns e' H e.
    float measure() {
        for (size_t i = 0; i < width_; ++i) {
            const size_t group = i / format_.group;
            errors_[i]         = step_of(group) * value_of(i) - minimum_of(group) - weights_[i];
        }
        for (size_t i = 0; i < width_; ++i) {
            pulls_[i] = dot(moments_of(i), errors_.data(), width_);
        }
        return dot(errors_.data(), pulls_.data(), width_);
    }

    bool sweep_levels() {
        bool changed = false;
        for (size_t i = 0; i < width_; ++i) {
            const float step = step_of(i / format_.group);
            if (step == 0.0F) {
                continue;
            }
            const float   slope = moments_of(i)[i] * step;
            const float   value = value_of(i);
            const uint8_t best  = nearest_level_(value - pulls_[i] / slope);
            if (best != levels_[i]) {
                levels_[i] = best;
                add_scaled(pulls_.data(), moments_of(i), step * (value_of(i) - value), width_);
                changed = true;
            }
        }
        return changed;
    }

    bool sweep_groups() {
        bool changed = false;
        for (size_t group = 0; group < n_groups(); ++group) {
            const size_t first = group * format_.group;
            const float  super = supers_[first / format_.super_block];
            if (super != 0.0F && format_.min_step < format_.max_step) {
                for (size_t i = 0; i < format_.group; ++i) {
                    effects_[i] = super * value_of(first + i);
                }
                const int32_t step = steps_[group];
                const int32_t best = best_factor(first, step, format_.min_step, format_.max_step);
                changed            = change(first, best - step) || changed;
                steps_[group]      = static_cast<int8_t>(best);
            }
            if (minimums_ != nullptr && super_mins_[first / format_.super_block] != 0.0F) {
                std::fill_n(effects_.data(), format_.group, -super_mins_[first / format_.super_block]);
                const int32_t minimum = minimums_[group];
                const int32_t best    = best_factor(first, minimum, 0, format_.max_minimum);
                changed               = change(first, best - minimum) || changed;
                minimums_[group]      = static_cast<uint8_t>(best);
            }
        }
        return changed;
    }

    // The integer that a group's effects_ are best multiplied with.
    int32_t best_factor(size_t first, int32_t factor, int32_t lowest, int32_t highest) const {
        float slope = 0.0F;
        for (size_t i = 0; i < format_.group; ++i) {
            slope += effects_[i] * dot(moments_of(first + i) + first, effects_.data(), format_.group);
        }
        if (!(slope > 0.0F)) {
            return factor;
        }
        return nearest(static_cast<float>(factor) - dot(effects_.data(), pulls_.data() + first, format_.group) / slope,
                       lowest, highest);
    }

    bool change(size_t first, int32_t by) {
        if (by == 0) {
            return false;
        }
        for (size_t i = 0; i < format_.group; ++i) {
            add_scaled(pulls_.data(), moments_of(first + i), effects_[i] * static_cast<float>(by), width_);
        }
        return true;
    }

    void restore() {
        std::copy_n(kept_levels_.data(), width_, levels_);
        std::copy_n(kept_steps_.data(), n_groups(), steps_);
        if (minimums_ != nullptr) {
            std::copy_n(kept_minimums_.data(), n_groups(), minimums_);
        }
    }

    const RoundingFormat & format_;
    const NearestLevel &   nearest_level_;
    const float *          moments_; // [width][width]
    size_t                 width_;
    const float *          weights_    = nullptr;
    const float *          supers_     = nullptr;
    const float *          super_mins_ = nullptr;
    uint8_t *              levels_     = nullptr;
    int8_t *               steps_      = nullptr;
    uint8_t *              minimums_   = nullptr;

    std::array<float, max_width>    errors_{};  // of the weights
    std::array<float, max_width>    pulls_{};   // H e: half of what a change of a weight does to the sum
    std::array<float, max_width>    effects_{}; // of a group: what one more of a factor adds to its weights
    std::array<uint8_t, max_width>  kept_levels_{};
    std::array<int8_t, max_groups>  kept_steps_{};
    std::array<uint8_t, max_groups> kept_minimums_{};
};

} // namespace

void round_rows(const RoundingRows & rows, const float * moments, uint32_t n_rounds) {
    const RoundingFormat & format = *rows.format;
    assert(format.group >= feedback_block / max_groups && format.super_block % format.group == 0);
    assert(feedback_block % format.super_block == 0 && rows.n_in % format.super_block == 0);
    assert(!format.values.empty() && format.values.size() <= max_levels);
    const NearestLevel nearest_level(format.values);
    const size_t       n_groups = rows.n_in / format.group;
    const size_t       n_supers = rows.n_in / format.super_block;
    for (size_t first = 0; first < rows.n_in; first += feedback_block) {
        const size_t width = std::min(feedback_block, rows.n_in - first);
        RowBlock     block(format, nearest_level, moments, width);
        for (size_t row = 0; row < rows.n_rows; ++row) {
            const size_t super = row * n_supers + first / format.super_block;
            const size_t group = row * n_groups + first / format.group;
            block.set(rows.weights + row * rows.n_in + first, rows.supers + super,
                      rows.super_mins == nullptr ? nullptr : rows.super_mins + super,
                      rows.levels + row * rows.n_in + first, rows.steps + group,
                      rows.minimums == nullptr ? nullptr : rows.minimums + group);
            block.improve(n_rounds);
        }
        moments += width * width;
    }
}

} // namespace hobbit
