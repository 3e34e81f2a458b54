/* What is used of Envoy's interface for dynamic modules, version v0.2.0 (Envoy 1.40). It is alpha for load
   balancers; Envoy warns where a module is of another version. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ABI_VERSION "v0.2.0"

typedef struct {
  const char *ptr;
  size_t length;
} Buffer; /* Envoy's and the module's: neither ends in 0 */

typedef enum { METRIC_SUCCESS } MetricResult;
typedef enum { RQ_ACTIVE = 7 } HostStat;

/* Hosts are numbered among all of a priority; in a choice, and where a name says `healthy`, among those. */
#define CALLBACK(name) envoy_dynamic_module_callback_lb_##name
size_t CALLBACK(get_priority_set_size)(void *lb);
size_t CALLBACK(get_hosts_count)(void *lb, uint32_t priority);
size_t CALLBACK(get_healthy_hosts_count)(void *lb, uint32_t priority);
bool CALLBACK(get_host_address)(void *lb, uint32_t priority, size_t host, Buffer *address);
bool CALLBACK(get_healthy_host_address)(void *lb, uint32_t priority, size_t healthy, Buffer *address);
uint64_t CALLBACK(get_host_stat)(void *lb, uint32_t priority, size_t host, HostStat stat);
bool CALLBACK(get_host_metadata_number)(void *lb, uint32_t priority, size_t host, Buffer filter, Buffer key,
                                        double *number);
bool CALLBACK(context_get_downstream_header)(void *context, Buffer key, Buffer *value, size_t index,
                                             size_t *count);
uint32_t CALLBACK(context_get_host_selection_retry_count)(void *context);
bool CALLBACK(context_should_select_another_host)(void *lb, void *context, uint32_t priority, size_t host);
MetricResult CALLBACK(config_define_counter)(void *config, Buffer name, Buffer *labels, size_t num_labels,
                                             size_t *id);
MetricResult CALLBACK(config_increment_counter)(void *config, size_t id, Buffer *labels, size_t num_labels,
                                                uint64_t by);
MetricResult CALLBACK(config_define_histogram)(void *config, Buffer name, Buffer *labels, size_t num_labels,
                                               size_t *id);
MetricResult CALLBACK(config_record_histogram_value)(void *config, size_t id, Buffer *labels,
                                                     size_t num_labels, uint64_t value);

static inline Buffer text(const char *zero_ended) { return (Buffer){zero_ended, strlen(zero_ended)}; }
