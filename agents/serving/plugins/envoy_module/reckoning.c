/* What a replica is doing, reckoned from what was sent to it. Envoy knows how many requests are under way
   there, and this worker what it sent: those under way are taken to be the ones sent last. A replica is taken
   to prefill one after the other, each for as long as it takes alone, and then to give each a token an
   iteration. */

#define REMEMBERED 64
#define MOST_ADDRESS 128

typedef struct {
  float prompt_tokens, output_tokens;
  double sent_s;
} Sent;

typedef struct {
  char address[MOST_ADDRESS];
  float speed, kv_blocks;
  uint32_t num_sent;
  Sent sent[REMEMBERED]; /* number n stands at n % REMEMBERED */
} Host;

static void remember(Host *host, float prompt_tokens, float output_tokens, double now_s) {
  host->sent[host->num_sent++ % REMEMBERED] = (Sent){prompt_tokens, output_tokens, now_s};
}

/* The row of a replica with `active` requests under way. Nobody reports when its iteration ends, which
   prefixes it holds, or whom it has not seen yet: those are 0. */
static void reckon(float *row, const Host *host, uint32_t active, bool healthy, double now_s) {
  const uint32_t remembered = host->num_sent < REMEMBERED ? host->num_sent : REMEMBERED;
  const uint32_t known = active < remembered ? active : remembered;
  const float token_s = (SETTING[OVERHEAD_S] + SETTING[S_PER_DECODE] * (float)active) / host->speed;
  double free_s = 0.0; /* when its prefills so far are done */
  memset(row, 0, REPLICA_FEATURES * sizeof(float));
  for (uint32_t n = host->num_sent - known; n != host->num_sent; n++) {
    const Sent *sent = &host->sent[n % REMEMBERED];
    float prefill_s = SETTING[OVERHEAD_S] + SETTING[S_PER_PREFILL_TOKEN] * sent->prompt_tokens;
    free_s = (free_s > sent->sent_s ? free_s : sent->sent_s) + prefill_s / host->speed;
    row[OUTSTANDING_TOKENS] += sent->prompt_tokens;
    if (free_s > now_s) {
      row[WAITING] += 1.0f;
      row[QUEUED_PREFILL_TOKENS] += sent->prompt_tokens;
      row[PREDICTED_REMAINING_TOKENS] += sent->output_tokens;
      continue;
    }
    float generated = least((float)(now_s - free_s) / most(token_s, 1e-6f), sent->output_tokens);
    row[RUNNING] += 1.0f;
    row[OUTSTANDING_TOKENS] += generated;
    row[DECODE_CONTEXT_TOKENS] += sent->prompt_tokens + generated;
    row[PREDICTED_REMAINING_TOKENS] += sent->output_tokens - generated;
    row[KV_RELEASED_PER_ITERATION] += (sent->prompt_tokens + sent->output_tokens) / sent->output_tokens;
  }
  if (active > known) { /* others are as those known; where none is, half through answers to nothing */
    if (known == 0) {
      float half = 0.5f * SETTING[MEAN_OUTPUT_TOKENS] * (float)active;
      row[RUNNING] = (float)active;
      row[OUTSTANDING_TOKENS] = row[DECODE_CONTEXT_TOKENS] = row[PREDICTED_REMAINING_TOKENS] = half;
      row[KV_RELEASED_PER_ITERATION] = (float)active;
    } else {
      float times = (float)active / (float)known;
      for (int i = 0; i < REPLICA_FEATURES; i++) row[i] *= times;
    }
  }
  row[AVAILABLE] = healthy ? 1.0f : 0.0f;
  row[KV_USED_BLOCKS] = __builtin_ceilf(row[DECODE_CONTEXT_TOKENS] / SETTING[BLOCK_SIZE]);
  row[KV_TOTAL_BLOCKS] = host->kv_blocks;
  row[SPEED] = host->speed;
}
