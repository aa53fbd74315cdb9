// One step of a Llama on a CPU: all layers, then the logits of the tokens that sample. Called from Python with plain
// pointers (engine/native/step.py has the same structs); it knows neither torch nor Python.
#include <algorithm>
#include <memory>

#include <pthread.h>

#include "attention.h"
#include "pool.h"
#include "products.h"

struct Layer {
    const float *attention_norm, *ffn_norm;
    float *k, *v;  // pages, as attention.h has them
    Matrix wqkv, wo, w13, w2;
};

struct Model {
    int32_t dim, heads, kv_heads, head_dim, ffn, page, layers;
    float eps;
    const float *rope, *norm;  // rope: a cosine and a sine for each pair of each position
    const Layer* layer;
    Matrix output;
};

struct Batch {
    int32_t tokens, segments, samples;
    const Segment* segment;
    const int32_t *pages, *sample;  // which tokens sample
    float *x, *logits;              // embeddings in, [tokens, dim], overwritten; [samples, vocabulary] out
};

namespace {

struct Item {  // queries that go together
    int32_t segment, token, head, first;
};

struct Space {  // kept from step to step
    std::vector<float> wide, attended;
    std::vector<Digits> digits;
    std::vector<Item> items;
    std::vector<std::vector<float>> scores;
    std::unique_ptr<Pool> pool;
};

void norm(const float* x, const float* weight, int dim, float eps, float* out) {
    f32 squares = {};
    float rest = 0.0f;
    int i = 0;
    for (; i + LANES <= dim; i += LANES) squares += load<f32>(x + i) * load<f32>(x + i);
    for (; i < dim; i++) rest += x[i] * x[i];
    const float scale = 1.0f / __builtin_sqrtf((total(squares) + rest) / dim + eps);
    for (i = 0; i < dim; i++) out[i] = x[i] * scale * weight[i];
}

void rotate(float* x, int heads, int dim, const float* rope) {
    for (int head = 0; head < heads; head++, x += dim)
        for (int i = 0; i < dim; i += 2) {
            const float a = x[i], b = x[i + 1];
            x[i] = a * rope[i] - b * rope[i + 1];
            x[i + 1] = a * rope[i + 1] + b * rope[i];
        }
}

void gate(float* x, int width) {  // silu(first half) * second half, into the first
    int i = 0;
    for (; i + LANES <= width; i += LANES) {
        const f32 a = load<f32>(x + i);
        store(x + i, a / (1.0f + exponential(-a)) * load<f32>(x + width + i));
    }
    for (; i < width; i++) {
        const f32 a = all(x[i]);
        x[i] = (a / (1.0f + exponential(-a)))[0] * x[width + i];
    }
}

void multiply(Space& s, const Matrix& m, int tokens, float* y, long stride, bool add) {
    s.pool->run(m.tiles(), [&](int from, int to, int) { product(m, from, to, tokens, s.digits.data(), y, stride, add); });
}

// norm(x) or x itself, as digits. `pick`: which tokens, or all.
void prepare(Space& s, const float* x, long stride, int tokens, int columns, const float* weight, float eps,
             const int32_t* pick = nullptr) {
    const int groups = (columns + GROUP - 1) / GROUP;
    s.digits.resize(std::max(s.digits.size(), (size_t)tokens * groups));
    s.pool->run(tokens, [&](int from, int to, int) {
        thread_local std::vector<float> row;
        row.resize(columns);
        for (int t = from; t < to; t++) {
            const float* at = x + (pick ? pick[t] : t) * stride;
            if (weight) norm(at, weight, columns, eps, row.data());
            quantize(weight ? row.data() : at, columns, s.digits.data() + (long)t * groups);
        }
    });
}

void reserve(Space& s, int threads, size_t wide, size_t attended) {
    if (!s.pool || s.pool->threads != threads) s.pool = std::make_unique<Pool>(threads);
    s.wide.resize(std::max(s.wide.size(), wide));
    s.attended.resize(std::max(s.attended.size(), attended));
    s.scores.resize(threads);
}

void layer(Space& s, const Model& m, const Layer& l, const Batch& b) {
    const Heads heads{m.heads, m.kv_heads, m.head_dim, m.page};
    const long q = (long)m.heads * m.head_dim, kv = (long)m.kv_heads * m.head_dim, qkv = q + 2 * kv;
    float* wide = s.wide.data();
    prepare(s, b.x, m.dim, b.tokens, m.dim, l.attention_norm, m.eps);
    multiply(s, l.wqkv, b.tokens, wide, qkv, false);
    for (int n = 0, token = 0; n < b.segments; n++)
        for (int i = 0; i < b.segment[n].length; i++, token++) {
            const int position = b.segment[n].start + i;
            float* row = wide + token * qkv;
            rotate(row, m.heads + m.kv_heads, m.head_dim, m.rope + (long)position * m.head_dim);
            keep(heads, b.pages + b.segment[n].pages, position, row + q, row + q + kv, l.k, l.v);
        }
    s.pool->run(s.items.size(), [&](int from, int to, int thread) {
        for (int n = from; n < to; n++) {
            const Item& item = s.items[n];
            const Segment& segment = b.segment[item.segment];
            attend(heads, segment, b.pages + segment.pages, item.head, item.first, wide + item.token * qkv, qkv, l.k,
                   l.v, s.attended.data() + item.token * q, q, s.scores[thread]);
        }
    });
    prepare(s, s.attended.data(), q, b.tokens, q, nullptr, 0);
    multiply(s, l.wo, b.tokens, b.x, m.dim, true);
    prepare(s, b.x, m.dim, b.tokens, m.dim, l.ffn_norm, m.eps);
    multiply(s, l.w13, b.tokens, wide, 2l * m.ffn, false);
    s.pool->run(b.tokens, [&](int from, int to, int) {
        for (int t = from; t < to; t++) gate(wide + t * 2l * m.ffn, m.ffn);
    });
    prepare(s, wide, 2l * m.ffn, b.tokens, m.ffn, nullptr, 0);
    multiply(s, l.w2, b.tokens, b.x, m.dim, true);
}

Space& space() {
    thread_local Space kept;
    return kept;
}

// In a forked process the pool's threads do not exist, and whoever waits for them waits for ever: it is left alone.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { (void)space().pool.release(); });

}  // namespace

extern "C" {

void guildllama_step(const Model* model, const Batch* batch, int threads) {
    Space& s = space();
    const Model& m = *model;
    const Batch& b = *batch;
    const int qkv = (m.heads + 2 * m.kv_heads) * m.head_dim;
    reserve(s, threads, (size_t)b.tokens * std::max(qkv, 2 * m.ffn), (size_t)b.tokens * m.heads * m.head_dim);
    s.items.clear();
    for (int n = 0, token = 0; n < b.segments; token += b.segment[n++].length)
        for (int head = 0; head < m.kv_heads; head++)
            for (int first = 0; first < b.segment[n].length * m.heads / m.kv_heads; first += QUERIES)
                s.items.push_back({n, token, head, first});
    for (int n = 0; n < m.layers; n++) layer(s, m, m.layer[n], b);
    if (!b.samples) return;
    prepare(s, b.x, m.dim, b.samples, m.dim, m.norm, m.eps, b.sample);
    multiply(s, m.output, b.samples, b.logits, m.output.rows, false);
}

// y = x · Wᵀ, [tokens, columns] -> [tokens, rows].
void guildllama_product(const Matrix* m, int tokens, const float* x, float* y, int threads) {
    Space& s = space();
    reserve(s, threads, 0, 0);
    prepare(s, x, m->columns, tokens, m->columns, nullptr, 0);
    multiply(s, *m, tokens, y, m->rows, false);
}
}
