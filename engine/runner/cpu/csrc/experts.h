// The feed-forward of a mixture of experts: a router chooses some of a layer's experts for each token. The chosen
// (token, expert) pairs are sorted by expert, so that an expert's matrices are read once for all of its tokens, and
// those of an expert without tokens are not read. A token's result does not depend, to the bit, on the tokens beside it:
// its score for an expert, its products and their sum, by number of expert, each have one order.
#pragma once
#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "activation.h"
#include "linear.h"
#include "thread_pool.h"

struct Expert {
    Matrix w13, w2;
};

struct Mixture {
    int32_t experts, per_token;  // 0 experts: a dense model
    int32_t normalized;          // the weights of a token's experts sum up to 1
};

constexpr int SCORES_AT_ONCE = 8;  // experts, of one token
constexpr int TILES_AT_ONCE = 4;   // of an expert's matrix, that a thread takes at a time

// The dot products of a token with `count` rows of the router.
template <int count>
inline void score(const float* x, const float* rows, int dim, float* scores) {
    f32 sums[count] = {};
    int from = 0;
    for (; from + LANES <= dim; from += LANES) {
        const f32 part = load<f32>(x + from);
        for (int n = 0; n < count; n++) sums[n] += part * load<f32>(rows + (long)n * dim + from);
    }
    for (int n = 0; n < count; n++) {
        float sum = horizontal_sum(sums[n]);
        for (int i = from; i < dim; i++) sum += x[i] * rows[(long)n * dim + i];
        scores[n] = sum;
    }
}

// The experts with the highest scores, in ascending order, and their softmax weights. `scores` has whole registers, the
// last one filled with -infinity, and is overwritten. Of equal scores the first wins; NaN chooses experts that exist.
inline void choose(const Mixture& m, float* scores, int32_t* chosen, float* weights) {
    int count = 0;  // `chosen` is sorted by score
    for (int expert = 0; expert < m.experts; expert++) {
        if (count == m.per_token && !(scores[expert] > scores[chosen[count - 1]])) continue;
        int at = count < m.per_token ? count++ : count - 1;
        for (; at > 0 && scores[expert] > scores[chosen[at - 1]]; at--) chosen[at] = chosen[at - 1];
        chosen[at] = expert;
    }
    const float highest = scores[chosen[0]];
    std::sort(chosen, chosen + count);
    f32 sums = {};
    for (int i = 0; i < m.experts; i += LANES) {
        const f32 weight = vector_exp(load<f32>(scores + i) - highest);
        sums += weight;
        store(scores + i, weight);
    }
    float sum = horizontal_sum(sums);
    if (m.normalized) sum *= 0.0f;  // 0, or NaN if any score is, even one that is not chosen
    for (int n = 0; n < count; n++) {
        weights[n] = scores[chosen[n]];
        if (m.normalized) sum += weights[n];
    }
    for (int n = 0; n < count; n++) weights[n] /= sum;
}

class ExpertStep {  // of one layer; its buffers are kept from step to step
  public:
    // Chooses the experts of tokens x [tokens, dim] by the router [experts, dim], and sorts the pairs.
    void route(ThreadPool& pool, const Mixture& m, const float* router, const float* x, int tokens, int dim) {
        const int padded = (m.experts + LANES - 1) / LANES * LANES, pairs = tokens * m.per_token;
        scores.assign((size_t)tokens * padded, -__builtin_inff());
        chosen.resize(pairs), weights.resize(pairs), places.resize(pairs), pair_tokens.resize(pairs);
        pool.run((m.experts + SCORES_AT_ONCE - 1) / SCORES_AT_ONCE, [&](int from, int to, int) {
            for (int first = from * SCORES_AT_ONCE; first < std::min(to * SCORES_AT_ONCE, m.experts);
                 first += SCORES_AT_ONCE)
                for (int t = 0; t < tokens; t++) {
                    const float *token = x + (long)t * dim, *rows = router + (long)first * dim;
                    float* out = scores.data() + (long)t * padded + first;
                    if (first + SCORES_AT_ONCE <= m.experts)
                        score<SCORES_AT_ONCE>(token, rows, dim, out);
                    else
                        for (int n = 0; first + n < m.experts; n++) score<1>(token, rows + (long)n * dim, dim, out + n);
                }
        });
        pool.run(tokens, [&](int from, int to, int) {
            for (int t = from; t < to; t++)
                choose(m, scores.data() + (long)t * padded, chosen.data() + t * m.per_token,
                       weights.data() + t * m.per_token);
        });
        sort_pairs(m, tokens);
    }

    // The products of the chosen experts, for the tokens `quantized`; `activations` has room for w13's results.
    void multiply(ThreadPool& pool, const Expert* experts, const QuantizedGroup* quantized, float* activations,
                  bool gelu) {
        const Expert& any = experts[0];
        const int pairs = pair_tokens.size(), dim = any.w13.columns, width = any.w2.columns;
        const int in_groups = any.w13.groups(), groups = any.w2.groups();
        gathered.resize(std::max(gathered.size(), (size_t)pairs * std::max(in_groups, groups)));
        products.resize(std::max(products.size(), (size_t)pairs * dim));
        gather(pool, quantized, in_groups);
        for_tiles(pool, any.w13.tiles(), [&](const Run& run, int from, int to) {
            const QuantizedGroup* x = are_consecutive(run) ? quantized + (long)pair_tokens[run.first] * in_groups
                                                           : gathered.data() + (long)run.first * in_groups;
            multiply_tiles(experts[run.expert].w13, from, to, run.count, x, activations + run.first * 2l * width,
                           2l * width, false);
        });
        pool.run(pairs, [&](int from, int to, int) {
            for (int pair = from; pair < to; pair++) {
                float* row = activations + pair * 2l * width;
                gate(gelu, row, width);
                quantize_token(row, width, gathered.data() + (long)pair * groups);
            }
        });
        for_tiles(pool, any.w2.tiles(), [&](const Run& run, int from, int to) {
            multiply_tiles(experts[run.expert].w2, from, to, run.count, gathered.data() + (long)run.first * groups,
                           products.data() + (long)run.first * dim, dim, false);
        });
    }

    // The weighted sum of a token's products, in a buffer [dim] of its own.
    float* combine(const Mixture& m, int token, int dim) {
        const int32_t* place = places.data() + token * m.per_token;
        const float* weight = weights.data() + token * m.per_token;
        float* sum = products.data() + (long)place[0] * dim;
        for (int i = 0; i < dim; i++) sum[i] *= weight[0];
        for (int n = 1; n < m.per_token; n++) {
            const float* product = products.data() + (long)place[n] * dim;
            for (int i = 0; i < dim; i++) sum[i] += weight[n] * product[i];
        }
        return sum;
    }

  private:
    struct Run {  // consecutive pairs of one expert
        int expert, first, count;
    };

    void sort_pairs(const Mixture& m, int tokens) {
        ends.assign(m.experts, 0);
        for (const int32_t expert : chosen) ends[expert]++;
        runs.clear();
        for (int expert = 0, first = 0; expert < m.experts; expert++) {
            if (ends[expert]) runs.push_back({expert, first, ends[expert]});
            first += std::exchange(ends[expert], first);  // from here on, the end of the pairs that are in place
        }
        for (int t = 0, pair = 0; t < tokens; t++)
            for (int n = 0; n < m.per_token; n++, pair++) {
                places[pair] = ends[chosen[pair]]++;
                pair_tokens[places[pair]] = t;
            }
    }

    // Whether the tokens of a run are consecutive in the step, so that they need not be copied. They are in order.
    bool are_consecutive(const Run& run) const {
        return pair_tokens[run.first + run.count - 1] - pair_tokens[run.first] == run.count - 1;
    }

    void gather(ThreadPool& pool, const QuantizedGroup* quantized, int groups) {
        if (std::all_of(runs.begin(), runs.end(), [&](const Run& run) { return are_consecutive(run); })) return;
        pool.run(pair_tokens.size(), [&](int from, int to, int) {
            for (int pair = from; pair < to; pair++)
                std::copy_n(quantized + (long)pair_tokens[pair] * groups, groups,
                            gathered.data() + (long)pair * groups);
        });
    }

    // Calls work(run, from, to) for all tiles of all runs' matrices. Threads take tiles as they get on, since runs have
    // different numbers of tokens.
    template <class Work>
    void for_tiles(ThreadPool& pool, int tiles, const Work& work) {
        const int parts = (tiles + TILES_AT_ONCE - 1) / TILES_AT_ONCE, all = runs.size() * parts;
        std::atomic<int> next{0};
        pool.run(pool.threads, [&](int, int, int) {
            for (int part; (part = next.fetch_add(1, std::memory_order_relaxed)) < all;) {
                const int from = part % parts * TILES_AT_ONCE;
                work(runs[part / parts], from, std::min(from + TILES_AT_ONCE, tiles));
            }
        });
    }

    std::vector<float> scores, weights;   // weights: [tokens, per_token]
    std::vector<int32_t> chosen, places;  // [tokens, per_token]; places: of the pairs in their order by expert
    std::vector<int32_t> pair_tokens;     // [pairs], by expert
    std::vector<int> ends;
    std::vector<Run> runs;
    std::vector<QuantizedGroup> gathered;  // w13's input, where it must be copied; then w2's input
    std::vector<float> products;           // [pairs, dim]
};
