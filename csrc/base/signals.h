// For threads that the host program does not know of.
#pragma once

#include <csignal>

namespace hobbit {

// Signals belong to the threads of the host program: a Ctrl-C must interrupt what Python waits for, not a read. To be
// called by a thread of ours when it begins.
inline void block_signals() {
    sigset_t set;
    sigfillset(&set);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
        sigdelset(&set, fault);
    }
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

} // namespace hobbit
