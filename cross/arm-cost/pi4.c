/* Loaded before a program (LD_PRELOAD), it lets the system say of the processor what it says on a Raspberry Pi 4: that there are no
 * instructions for AES and SHA. A Cortex-A72 may have them, and QEMU's has; the board's was made without. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/auxv.h>

unsigned long getauxval(unsigned long type)
{
    enum { AES = 1 << 3, PMULL = 1 << 4, SHA1 = 1 << 5, SHA2 = 1 << 6 };
    unsigned long (*of_the_system)(unsigned long) = (unsigned long (*)(unsigned long))dlsym(RTLD_NEXT, "getauxval");
    unsigned long value = of_the_system(type);
    return type == AT_HWCAP ? value & ~(unsigned long)(AES | PMULL | SHA1 | SHA2) : value;
}
