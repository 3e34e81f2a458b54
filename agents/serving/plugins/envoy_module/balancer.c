/* A load balancer of Envoy: one object for each worker, asked for a host for each request. Where the policy's
   answer cannot be used, the host with the fewest requests under way is chosen, and it is counted. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MOST_TOKENS 1e7f
#define BYTES_PER_TOKEN 4.0f /* of a prompt whose length no header says */

typedef struct {
  void *envoy;
  size_t decisions, fallbacks, decision_ns; /* metrics */
} Config;

typedef struct {
  void *envoy;
  Config *config;
  uint32_t priority; /* whose hosts these are */
  int count;
  Host *hosts;      /* [count] */
  int64_t *healthy; /* [count] number among the healthy hosts, or -1 */
  uint32_t *active; /* [count] */
  float *rows, *scores, *work;
  double last_s; /* of the request before */
  uint32_t turn;
  FILE *log; /* of decisions, where DECISION_LOG is compiled in */
} Balancer;

static double clock_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void forget_hosts(Balancer *b) {
  free(b->hosts);
  free(b->healthy);
  free(b->active);
  free(b->rows);
  free(b->scores);
  free(b->work);
  b->hosts = NULL;
  b->healthy = NULL;
  b->active = NULL;
  b->rows = b->scores = b->work = NULL;
  b->count = 0;
}

static float metadata(const Balancer *b, uint32_t priority, size_t host, const char *key, float otherwise) {
  double number;
  Buffer filter = text("servegym");
  bool there = CALLBACK(get_host_metadata_number)(b->envoy, priority, host, filter, text(key), &number);
  return there && number > 0.0 && number < 1e9 ? (float)number : otherwise;
}

/* The hosts as they are now; those that stay keep what was sent to them. False where memory is lacking. */
static bool meet_hosts(Balancer *b, uint32_t priority) {
  Balancer met = *b;
  size_t count = CALLBACK(get_hosts_count)(b->envoy, priority);
  if (count == 0 || count > MOST_REPLICAS) return false;
  met.priority = priority;
  met.count = (int)count;
  met.hosts = calloc(count, sizeof *met.hosts);
  met.healthy = calloc(count, sizeof *met.healthy);
  met.active = calloc(count, sizeof *met.active);
  met.rows = calloc(count * REPLICA_FEATURES, sizeof(float));
  met.scores = calloc(count, sizeof(float));
  met.work = calloc((size_t)servegym_work_floats(met.count), sizeof(float));
  if (!met.hosts || !met.healthy || !met.active || !met.rows || !met.scores || !met.work) {
    forget_hosts(&met);
    return false;
  }
  for (size_t i = 0; i < count; i++) {
    Host *host = &met.hosts[i];
    Buffer address = {NULL, 0};
    CALLBACK(get_host_address)(b->envoy, priority, i, &address);
    size_t length = address.length < MOST_ADDRESS ? address.length : MOST_ADDRESS - 1;
    if (length) memcpy(host->address, address.ptr, length);
    for (int old = 0; old < b->count; old++)
      if (!strcmp(b->hosts[old].address, host->address)) *host = b->hosts[old];
    host->speed = metadata(b, priority, i, "speed", 1.0f);
    host->kv_blocks = metadata(b, priority, i, "kv_blocks", KV_BLOCKS);
  }
  forget_hosts(b);
  *b = met;
  return true;
}

/* Numbers the healthy hosts: Envoy lists them in the order of all hosts, and one address is one string. */
static void find_healthy(Balancer *b) {
  size_t num_healthy = CALLBACK(get_healthy_hosts_count)(b->envoy, b->priority), k = 0;
  Buffer next = {NULL, 0}, address = {NULL, 0};
  if (num_healthy) CALLBACK(get_healthy_host_address)(b->envoy, b->priority, 0, &next);
  for (int i = 0; i < b->count; i++) {
    b->healthy[i] = -1;
    if (k == num_healthy) continue;
    CALLBACK(get_host_address)(b->envoy, b->priority, (size_t)i, &address);
    if (address.ptr != next.ptr) continue;
    b->healthy[i] = (int64_t)k++;
    if (k < num_healthy) CALLBACK(get_healthy_host_address)(b->envoy, b->priority, k, &next);
  }
}

/* A header that is a number from `from` to MOST_TOKENS; clients write what they like. */
static float header(void *context, const char *name, float from, float otherwise) {
  Buffer value = {NULL, 0};
  char digits[24], *end;
  if (!context) return otherwise;
  if (!CALLBACK(context_get_downstream_header)(context, text(name), &value, 0, NULL)) return otherwise;
  if (value.length == 0 || value.length >= sizeof digits) return otherwise;
  memcpy(digits, value.ptr, value.length);
  digits[value.length] = 0;
  float number = strtof(digits, &end);
  return *end == 0 && number >= from && number <= MOST_TOKENS ? number : otherwise;
}

static void read_headers(void *context, float *request) {
  float bytes = header(context, "content-length", 0.0f, 0.0f);
  request[PROMPT_TOKENS] = header(context, "x-servegym-prompt-tokens", 0.0f, bytes / BYTES_PER_TOKEN);
  request[PREDICTED_OUTPUT_TOKENS] = header(context, "x-servegym-predicted-output-tokens", 0.0f, 0.0f);
  request[PRIORITY] = header(context, "x-servegym-priority", -MOST_TOKENS, 0.0f);
}

static int best_score(const Balancer *b) {
  int best = -1;
  for (int i = 0; i < b->count; i++) {
    if (b->healthy[i] < 0 || !(b->scores[i] > ILLEGAL)) continue;
    if (best < 0 || b->scores[i] > b->scores[best]) best = i;
  }
  return best;
}

/* The scores that decide where the policy's do not: few under way; equal ones take turns. */
static void fall_back(Balancer *b) {
  for (int i = 0; i < b->count; i++) {
    uint32_t turn = ((uint32_t)i + (uint32_t)b->count - b->turn % (uint32_t)b->count) % (uint32_t)b->count;
    b->scores[i] = -(float)b->active[i] - (float)turn / (float)(2 * b->count);
  }
  b->turn++;
}

#ifdef DECISION_LOG
/* For tests: what was decided by, as it lies in memory, and the choice, which a retry may still change. */
static void write_log(Balancer *b, const float *request, int chosen) {
  const char *path = getenv("SERVEGYM_DECISION_LOG");
  if (!b->log && path) b->log = fopen(path, "ab");
  if (!b->log) return;
  int32_t head[2] = {b->count, chosen};
  fwrite(head, sizeof head, 1, b->log);
  fwrite(request, sizeof(float), REQUEST_FEATURES, b->log);
  fwrite(b->rows, sizeof(float), (size_t)b->count * REPLICA_FEATURES, b->log);
  fflush(b->log);
}
#else
#define write_log(b, request, chosen)
#endif

static bool choose(Balancer *b, void *context, uint32_t *priority, uint32_t *index) {
  uint32_t priorities = (uint32_t)CALLBACK(get_priority_set_size)(b->envoy), use = 0;
  while (use < priorities && CALLBACK(get_healthy_hosts_count)(b->envoy, use) == 0) use++;
  if (use == priorities) return false; /* nobody is healthy */
  if ((use != b->priority || b->count == 0) && !meet_hosts(b, use)) return false;
  float request[REQUEST_FEATURES];
  double now_s = clock_s();
  read_headers(context, request);
  request[GAP_S] = b->last_s > 0.0 ? (float)(now_s - b->last_s) : 0.0f;
  b->last_s = now_s;
  find_healthy(b);
  for (int i = 0; i < b->count; i++) {
    b->active[i] = (uint32_t)CALLBACK(get_host_stat)(b->envoy, use, (size_t)i, RQ_ACTIVE);
    reckon(b->rows + i * REPLICA_FEATURES, &b->hosts[i], b->active[i], b->healthy[i] >= 0, now_s);
  }
  int decided = servegym_scores(request, b->rows, SETTING, b->count, b->scores, b->work);
  int chosen = decided > 0 ? best_score(b) : -1;
  if (chosen < 0) {
    CALLBACK(config_increment_counter)(b->config->envoy, b->config->fallbacks, NULL, 0, 1);
    fall_back(b);
    chosen = best_score(b);
  }
  if (chosen < 0) return false;
  write_log(b, request, chosen);
  /* A retry is to go to another host: the next best, as often as Envoy asks for. */
  int first = chosen;
  uint32_t retries = context ? CALLBACK(context_get_host_selection_retry_count)(context) : 0;
  while (retries-- > 0) {
    if (!CALLBACK(context_should_select_another_host)(b->envoy, context, use, (size_t)chosen)) break;
    b->scores[chosen] = ILLEGAL;
    chosen = best_score(b);
    if (chosen < 0) {
      chosen = first;
      break;
    }
  }
  float output = request[PREDICTED_OUTPUT_TOKENS];
  if (!(output > 0.0f)) output = SETTING[MEAN_OUTPUT_TOKENS];
  remember(&b->hosts[chosen], request[PROMPT_TOKENS], most(output, 1.0f), now_s);
  *priority = use;
  *index = (uint32_t)b->healthy[chosen];
  return true;
}

EXPORTED const char *envoy_dynamic_module_on_program_init(void) { return ABI_VERSION; }

EXPORTED void *envoy_dynamic_module_on_lb_config_new(void *envoy, Buffer name, Buffer settings) {
  (void)name;
  (void)settings;
  Config *config = servegym_runs_here() ? calloc(1, sizeof *config) : NULL;
  if (!config) return NULL;
  config->envoy = envoy;
  CALLBACK(config_define_counter)(envoy, text("servegym_decisions"), NULL, 0, &config->decisions);
  CALLBACK(config_define_counter)(envoy, text("servegym_fallbacks"), NULL, 0, &config->fallbacks);
  CALLBACK(config_define_histogram)(envoy, text("servegym_decision_ns"), NULL, 0, &config->decision_ns);
  return config;
}

EXPORTED void envoy_dynamic_module_on_lb_config_destroy(const void *config) { free((void *)config); }

EXPORTED void *envoy_dynamic_module_on_lb_new(const void *config, void *envoy) {
  Balancer *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  b->config = (Config *)config;
  b->envoy = envoy;
  return b;
}

EXPORTED void envoy_dynamic_module_on_lb_destroy(const void *balancer) {
  Balancer *b = (Balancer *)balancer;
  forget_hosts(b);
  if (b->log) fclose(b->log);
  free(b);
}

EXPORTED void envoy_dynamic_module_on_lb_on_host_membership_update(void *envoy, const void *balancer,
                                                                   size_t num_added, size_t num_removed) {
  (void)envoy;
  (void)num_added;
  (void)num_removed;
  Balancer *b = (Balancer *)balancer;
  if (!meet_hosts(b, b->priority)) forget_hosts(b);
}

EXPORTED bool envoy_dynamic_module_on_lb_choose_host(void *envoy, const void *balancer, void *context,
                                                     uint32_t *priority, uint32_t *index) {
  Balancer *b = (Balancer *)balancer;
  (void)envoy;
  double began_s = clock_s();
  bool chosen = choose(b, context, priority, index);
  CALLBACK(config_increment_counter)(b->config->envoy, b->config->decisions, NULL, 0, 1);
  uint64_t took_ns = (uint64_t)(1e9 * (clock_s() - began_s));
  CALLBACK(config_record_histogram_value)(b->config->envoy, b->config->decision_ns, NULL, 0, took_ns);
  return chosen;
}
