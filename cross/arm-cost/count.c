/* A plugin of qemu-user that counts the instructions a program with one thread executes, and prints the sum when it ends, and then those of
 * each function that takes part in them (where the program has its symbols), the most first.
 *
 * Debian has no package with qemu's header for plugins, so what is used of it is declared here: version 1 of the interface,
 * which QEMU 4.2 to 8.2 speak. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb; /* A block of instructions that are executed one after the other. */
struct qemu_plugin_insn;
struct qemu_info_t;
enum registers { NO_REGISTERS };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*executed)(unsigned, void *), enum registers access, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *data);
void qemu_plugin_outs(const char *text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
    const char *function;
    uint64_t length, times;
    struct block *next;
};

struct sum {
    const char *function;
    uint64_t instructions;
};

static struct block *blocks;

static void executed(unsigned processor, void *block)
{
    (void)processor;
    ((struct block *)block)->times++;
}

static void translated(plugin_id id, struct qemu_plugin_tb *code)
{
    struct block *block = calloc(1, sizeof *block);
    const char *function = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(code, 0));
    (void)id;
    if (!block)
        abort();
    *block = (struct block){function ? function : "?", qemu_plugin_tb_n_insns(code), 0, blocks};
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(code, executed, NO_REGISTERS, block);
}

static int by_function(const void *a, const void *b)
{
    return strcmp(((const struct sum *)a)->function, ((const struct sum *)b)->function);
}

static int most_first(const void *a, const void *b)
{
    uint64_t x = ((const struct sum *)a)->instructions, y = ((const struct sum *)b)->instructions;
    return (x < y) - (x > y);
}

static void ended(plugin_id id, void *data)
{
    char line[512];
    uint64_t all = 0;
    size_t count = 0, functions = 0;
    struct sum *sums;
    (void)id;
    (void)data;
    for (const struct block *block = blocks; block; block = block->next)
        count++;
    sums = calloc(count + 1, sizeof *sums);
    if (!sums)
        abort();
    count = 0;
    for (const struct block *block = blocks; block; block = block->next) {
        sums[count++] = (struct sum){block->function, block->length * block->times};
        all += block->length * block->times;
    }
    snprintf(line, sizeof line, "instructions: %" PRIu64 "\n", all);
    qemu_plugin_outs(line);
    qsort(sums, count, sizeof *sums, by_function);
    for (size_t i = 0; i < count; i++) {
        if (functions && !by_function(&sums[functions - 1], &sums[i]))
            sums[functions - 1].instructions += sums[i].instructions;
        else
            sums[functions++] = sums[i];
    }
    qsort(sums, functions, sizeof *sums, most_first);
    for (size_t i = 0; i < functions && sums[i].instructions > all / 1000; i++) {
        snprintf(line, sizeof line, "%14" PRIu64 " %s\n", sums[i].instructions, sums[i].function);
        qemu_plugin_outs(line);
    }
}

__attribute__((visibility("default")))
int qemu_plugin_install(plugin_id id, const struct qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
