// std::mutex with clang's thread-safety annotations (libstdc++'s own is not annotated).
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#    define HOBBIT_TSA(x) __attribute__((x))
#else
#    define HOBBIT_TSA(x)
#endif

#define HOBBIT_GUARDED_BY(m) HOBBIT_TSA(guarded_by(m))
#define HOBBIT_REQUIRES(m) HOBBIT_TSA(requires_capability(m))
#define HOBBIT_EXCLUDES(m) HOBBIT_TSA(locks_excluded(m))

namespace hobbit {

class HOBBIT_TSA(capability("mutex")) Mutex {
  public:
    void lock() HOBBIT_TSA(acquire_capability()) { mu_.lock(); }
    void unlock() HOBBIT_TSA(release_capability()) { mu_.unlock(); }

  private:
    std::mutex mu_;
};

class HOBBIT_TSA(scoped_lockable) MutexLock {
  public:
    explicit MutexLock(Mutex & mu) HOBBIT_TSA(acquire_capability(mu)) : mu_(mu) { mu_.lock(); }
    ~MutexLock() HOBBIT_TSA(release_capability()) { mu_.unlock(); }
    MutexLock(const MutexLock &)             = delete;
    MutexLock & operator=(const MutexLock &) = delete;

  private:
    Mutex & mu_;
};

using CondVar = std::condition_variable_any;

} // namespace hobbit
