// One forward pass of a model on a CPU: all layers, then the logits of the sampled positions. Python calls it with
// plain pointers (forward.py and linear.py declare the same structs); it knows neither torch nor Python.
#include <algorithm>
#include <memory>

#include <pthread.h>

#include "activation.h"
#include "attention.h"
#include "experts.h"
#include "linear.h"
#include "thread_pool.h"

struct Layer {  // null: what the model's blocks do not have
    const float *attention_norm, *post_attention_norm, *ffn_norm, *post_ffn_norm;
    const float *q_norm, *k_norm;  // over the dimensions of each head
    const float *wqkv_bias, *wo_bias, *w13_bias, *w2_bias;
    const float* rope;  // [positions, head dim / 2, 2], cosine and sine
    float *k, *v;       // this layer's in the first page, as attention.h describes them
    const float* router;  // [experts, dim]
    const Expert* experts;  // in place of w13 and w2
    AttentionRule rule;
    Matrix wqkv, wo, w13, w2;
};

struct Model {
    int32_t dim, heads, kv_heads, head_dim, ffn_dim, page_size, num_layers, gelu;
    Mixture mixture;
    float norm_eps, logit_softcap;  // a softcap of 0: none
    int64_t page_stride;  // floats of a page: all layers' keys and values
    const float* norm;
    const Layer* layers;
    Matrix output;
};

struct Batch {
    int32_t num_tokens, num_segments, num_samples;
    const Segment* segments;
    const int32_t *page_ids, *sample_sources;  // sample_sources: which of the tokens sample
    float *hidden, *logits;  // hidden: [tokens, dim], embeddings, overwritten; logits: [samples, vocabulary], the result
};

namespace {

struct AttentionTask {  // queries that `attend` computes together
    int32_t segment, token, kv_head, first_query;
};

constexpr int SOFTCAP_PARTS = 64;  // of a sample's logits, for the threads

struct Workspace {  // buffers and threads that are kept from step to step
    std::vector<float> activations, attended;
    std::vector<QuantizedGroup> quantized;
    std::vector<AttentionTask> tasks;
    ExpertStep experts;
    std::vector<std::vector<float>> scratch;  // of each thread
    std::unique_ptr<ThreadPool> pool;
};

void rms_norm(const float* x, const float* weight, int dim, float eps, float* out) {
    f32 squares = {};
    float rest = 0.0f;
    int i = 0;
    for (; i + LANES <= dim; i += LANES) squares += load<f32>(x + i) * load<f32>(x + i);
    for (; i < dim; i++) rest += x[i] * x[i];
    const float scale = 1.0f / __builtin_sqrtf((horizontal_sum(squares) + rest) / dim + eps);
    for (i = 0; i < dim; i++) out[i] = x[i] * scale * weight[i];
}

void add(const float* x, int count, float* y) {  // y += x
    for (int i = 0; i < count; i++) y[i] += x[i];
}

void rotate(float* x, int heads, int head_dim, const float* rope) {
    for (int head = 0; head < heads; head++, x += head_dim)
        for (int i = 0; i < head_dim; i += 2) {
            const float a = x[i], b = x[i + 1];
            x[i] = a * rope[i] - b * rope[i + 1];
            x[i + 1] = a * rope[i + 1] + b * rope[i];
        }
}

// y = x · Wᵀ, or with `add` y += x · Wᵀ, for the tokens x that `quantize` has left in the workspace.
void multiply(Workspace& s, const Matrix& m, int tokens, float* y, long stride, bool add) {
    s.pool->run(m.tiles(), [&](int from, int to, int) {
        multiply_tiles(m, from, to, tokens, s.quantized.data(), y, stride, add);
    });
}

// y = x · Wᵀ + bias. The bias may be null.
void multiply_add_bias(Workspace& s, const Matrix& m, const float* bias, int tokens, float* y, long stride) {
    multiply(s, m, tokens, y, stride, false);
    if (!bias) return;
    s.pool->run(tokens, [&](int from, int to, int) {
        for (int t = from; t < to; t++) add(bias, m.rows, y + t * stride);
    });
}

// hidden += norm(x · Wᵀ + bias), for the tokens x that `quantize` has left; `buffer` has room for their results.
void multiply_into_residual(Workspace& s, const Model& m, const Matrix& w, const float* bias, const float* norm,
                            const Batch& b, float* buffer) {
    if (!bias && !norm) return multiply(s, w, b.num_tokens, b.hidden, m.dim, true);
    multiply(s, w, b.num_tokens, buffer, m.dim, false);
    s.pool->run(b.num_tokens, [&](int from, int to, int) {
        for (int t = from; t < to; t++) {
            float* row = buffer + (long)t * m.dim;
            if (bias) add(bias, m.dim, row);
            if (norm) rms_norm(row, norm, m.dim, m.norm_eps, row);
            add(row, m.dim, b.hidden + (long)t * m.dim);
        }
    });
}

// Quantizes rms_norm(x), or x itself without a norm weight, for `multiply`. `sources`: which tokens of x; null: all.
void quantize(Workspace& s, const float* x, long stride, int tokens, int columns, const float* norm_weight, float eps,
              const int32_t* sources = nullptr) {
    const int groups = (columns + GROUP - 1) / GROUP;
    s.quantized.resize(std::max(s.quantized.size(), (size_t)tokens * groups));
    s.pool->run(tokens, [&](int from, int to, int) {
        thread_local std::vector<float> row;
        row.resize(columns);
        for (int t = from; t < to; t++) {
            const float* token = x + (sources ? sources[t] : t) * stride;
            if (norm_weight) rms_norm(token, norm_weight, columns, eps, row.data());
            quantize_token(norm_weight ? row.data() : token, columns, s.quantized.data() + (long)t * groups);
        }
    });
}

void reserve(Workspace& s, int threads, size_t activations, size_t attended) {
    if (!s.pool || s.pool->threads != threads) s.pool = std::make_unique<ThreadPool>(threads);
    s.activations.resize(std::max(s.activations.size(), activations));
    s.attended.resize(std::max(s.attended.size(), attended));
    s.scratch.resize(threads);
}

// hidden += norm(the weighted sum of the chosen experts' products). The router reads the normed tokens unquantized.
void run_experts(Workspace& s, const Model& m, const Layer& l, const Batch& b) {
    float* normed = s.attended.data();
    s.pool->run(b.num_tokens, [&](int from, int to, int) {
        for (long t = from; t < to; t++)
            rms_norm(b.hidden + t * m.dim, l.ffn_norm, m.dim, m.norm_eps, normed + t * m.dim);
    });
    s.experts.route(*s.pool, m.mixture, l.router, normed, b.num_tokens, m.dim);
    quantize(s, normed, m.dim, b.num_tokens, m.dim, nullptr, 0);
    s.experts.multiply(*s.pool, l.experts, s.quantized.data(), s.activations.data(), m.gelu);
    s.pool->run(b.num_tokens, [&](int from, int to, int) {
        for (int t = from; t < to; t++) {
            float* sum = s.experts.combine(m.mixture, t, m.dim);
            if (l.post_ffn_norm) rms_norm(sum, l.post_ffn_norm, m.dim, m.norm_eps, sum);
            add(sum, m.dim, b.hidden + (long)t * m.dim);
        }
    });
}

void run_layer(Workspace& s, const Model& m, const Layer& l, const Batch& b) {
    const KvLayout layout{m.heads, m.kv_heads, m.head_dim, m.page_size, (long)m.page_stride};
    const long q = (long)m.heads * m.head_dim, kv = (long)m.kv_heads * m.head_dim, qkv = q + 2 * kv;
    float* activations = s.activations.data();
    quantize(s, b.hidden, m.dim, b.num_tokens, m.dim, l.attention_norm, m.norm_eps);
    multiply_add_bias(s, l.wqkv, l.wqkv_bias, b.num_tokens, activations, qkv);
    for (int n = 0, token = 0; n < b.num_segments; n++)
        for (int i = 0; i < b.segments[n].length; i++, token++) {
            const int position = b.segments[n].start + i;
            float* row = activations + token * qkv;
            if (l.q_norm)
                for (int head = 0; head < m.heads + m.kv_heads; head++) {
                    float* x = row + (long)head * m.head_dim;
                    rms_norm(x, head < m.heads ? l.q_norm : l.k_norm, m.head_dim, m.norm_eps, x);
                }
            rotate(row, m.heads + m.kv_heads, m.head_dim, l.rope + (long)position * m.head_dim);
            store_kv(layout, b.page_ids + b.segments[n].first_page, position, row + q, row + q + kv, l.k, l.v);
        }
    s.pool->run(s.tasks.size(), [&](int from, int to, int thread) {
        for (int n = from; n < to; n++) {
            const AttentionTask& task = s.tasks[n];
            const Segment& segment = b.segments[task.segment];
            attend(layout, l.rule, segment, b.page_ids + segment.first_page, task.kv_head, task.first_query,
                   activations + task.token * qkv, qkv, l.k, l.v, s.attended.data() + task.token * q, q,
                   s.scratch[thread]);
        }
    });
    quantize(s, s.attended.data(), q, b.num_tokens, q, nullptr, 0);
    multiply_into_residual(s, m, l.wo, l.wo_bias, l.post_attention_norm, b, activations);
    if (m.mixture.experts) return run_experts(s, m, l, b);
    quantize(s, b.hidden, m.dim, b.num_tokens, m.dim, l.ffn_norm, m.norm_eps);
    multiply_add_bias(s, l.w13, l.w13_bias, b.num_tokens, activations, 2l * m.ffn_dim);
    s.pool->run(b.num_tokens, [&](int from, int to, int) {
        for (int t = from; t < to; t++) gate(m.gelu, activations + t * 2l * m.ffn_dim, m.ffn_dim);
    });
    quantize(s, activations, 2l * m.ffn_dim, b.num_tokens, m.ffn_dim, nullptr, 0);
    multiply_into_residual(s, m, l.w2, l.w2_bias, l.post_ffn_norm, b, activations);
}

Workspace& workspace() {
    thread_local Workspace kept;
    return kept;
}

// A forked process does not have the pool's threads, and waiting for them would never end: it leaks the pool instead.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { (void)workspace().pool.release(); });

}  // namespace

extern "C" {

void guildllama_step(const Model* model, const Batch* batch, int threads) {
    Workspace& s = workspace();
    const Model& m = *model;
    const Batch& b = *batch;
    const int qkv = (m.heads + 2 * m.kv_heads) * m.head_dim, feed_forwards = std::max(1, m.mixture.per_token);
    reserve(s, threads, (size_t)b.num_tokens * std::max({qkv, feed_forwards * 2 * m.ffn_dim, m.dim}),
            (size_t)b.num_tokens * std::max(m.heads * m.head_dim, m.dim));
    s.tasks.clear();
    for (int n = 0, token = 0; n < b.num_segments; token += b.segments[n++].length)
        for (int head = 0; head < m.kv_heads; head++)
            for (int first = 0; first < b.segments[n].length * m.heads / m.kv_heads; first += MAX_QUERIES)
                s.tasks.push_back({n, token, head, first});
    for (int n = 0; n < m.num_layers; n++) run_layer(s, m, m.layers[n], b);
    if (!b.num_samples) return;
    quantize(s, b.hidden, m.dim, b.num_samples, m.dim, m.norm, m.norm_eps, b.sample_sources);
    multiply(s, m.output, b.num_samples, b.logits, m.output.rows, false);
    if (m.logit_softcap)
        s.pool->run(b.num_samples * SOFTCAP_PARTS, [&](int from, int to, int) {
            const long size = (long)b.num_samples * m.output.rows, part = size / (b.num_samples * SOFTCAP_PARTS) + 1;
            for (long i = from * part; i < std::min(to * part, size); i++)
                b.logits[i] = soft_capped(broadcast(b.logits[i]), m.logit_softcap)[0];
        });
}

// y = x · Wᵀ, [tokens, columns] -> [tokens, rows].
void guildllama_linear(const Matrix* m, int tokens, const float* x, float* y, int threads) {
    Workspace& s = workspace();
    reserve(s, threads, 0, 0);
    quantize(s, x, m->columns, tokens, m->columns, nullptr, 0);
    multiply(s, *m, tokens, y, m->rows, false);
}
}
