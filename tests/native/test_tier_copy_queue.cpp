// The copy queue: chunks, what goes first, and that a completion means that the bytes are there.
#include "fake_device.h"
#include "tier/copy_queue.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <numeric>

namespace hobbit {

namespace {

using testing::FakeDevice;

std::vector<std::byte> some_bytes(size_t n) {
    std::vector<std::byte> bytes(n);
    for (size_t i = 0; i < n; i++) {
        bytes[i] = static_cast<std::byte>(i * 7 + 1);
    }
    return bytes;
}

class Completions {
  public:
    CopyQueue::Done callback() {
        return [this](uint64_t tag) {
            MutexLock lock(mu_);
            tags_.push_back(tag);
            changed_.notify_all();
        };
    }
    std::vector<uint64_t> wait_for(size_t n) {
        MutexLock lock(mu_);
        while (tags_.size() < n) {
            changed_.wait(mu_);
        }
        return tags_;
    }

  private:
    Mutex                       mu_;
    CondVar                     changed_;
    std::vector<uint64_t> tags_ HOBBIT_GUARDED_BY(mu_);
};

// Some chunks of the first job, which has many more.
void wait_until_begun(const FakeDevice & device) {
    while (device.begun().size() < 3) {
        std::this_thread::yield();
    }
}

TEST_CASE("a completed job's bytes are all on the device") {
    const auto  bytes = some_bytes(10'000);
    FakeDevice  device({20'000});
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({7, 0, 500, bytes.data(), bytes.size()}, true);
    CHECK(done.wait_for(1) == std::vector<uint64_t>{7});
    CHECK(std::equal(bytes.begin(), bytes.end(), device.data(0, 500)));
    CHECK(device.begun().size() == 10);
    CHECK(queue.stats().demand_bytes == bytes.size());
}

TEST_CASE("the last chunk is what is left") {
    const auto  bytes = some_bytes(2'300);
    FakeDevice  device({4'000});
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({1, 0, 0, bytes.data(), bytes.size()}, false);
    done.wait_for(1);
    const auto begun = device.begun();
    REQUIRE(begun.size() == 3);
    CHECK(begun[2].offset == 2'000);
    CHECK(begun[2].n_bytes == 300);
    CHECK(std::equal(bytes.begin(), bytes.end(), device.data(0, 0)));
    CHECK(queue.stats().background_bytes == bytes.size());
}

TEST_CASE("a demand passes a long background copy") {
    const auto  bytes = some_bytes(100'000);
    FakeDevice  device({100'000, 10'000}, 0.2); // 200 us a chunk
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({1, 0, 0, bytes.data(), bytes.size()}, false);
    wait_until_begun(device);
    queue.push({2, 1, 0, bytes.data(), 2'000}, true);
    CHECK(done.wait_for(2) == std::vector<uint64_t>{2, 1});
    CHECK(std::equal(bytes.begin(), bytes.end(), device.data(0, 0)));
    CHECK(std::equal(bytes.begin(), bytes.begin() + 2'000, device.data(1, 0)));
}

TEST_CASE("demands keep their order") {
    const auto            bytes = some_bytes(5'000);
    FakeDevice            device({50'000}, 0.01);
    Completions           done;
    CopyQueue             queue(device, 700, done.callback());
    std::vector<uint64_t> tags(10);
    std::iota(tags.begin(), tags.end(), 0);
    for (const uint64_t tag : tags) {
        queue.push({tag, 0, tag * 5'000, bytes.data(), bytes.size()}, true);
    }
    CHECK(done.wait_for(10) == tags);
}

TEST_CASE("a background copy that is waited for passes the others") {
    const auto  bytes = some_bytes(100'000);
    FakeDevice  device({100'000, 10'000, 10'000}, 0.2);
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({1, 0, 0, bytes.data(), bytes.size()}, false);
    queue.push({2, 1, 0, bytes.data(), 2'000}, false);
    queue.push({3, 2, 0, bytes.data(), 2'000}, false);
    queue.raise(3);
    queue.raise(9); // nobody's
    CHECK(done.wait_for(3) == std::vector<uint64_t>{3, 1, 2});
    CHECK(std::equal(bytes.begin(), bytes.begin() + 2'000, device.data(2, 0)));
}

TEST_CASE("a copy that was given up before it began never happens") {
    const auto  bytes = some_bytes(20'000);
    FakeDevice  device({20'000, 10'000}, 0.2);
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({1, 0, 0, bytes.data(), bytes.size()}, true);
    queue.push({2, 1, 0, bytes.data(), 2'000}, true);
    queue.push({3, 1, 2'000, bytes.data(), 2'000}, false);
    CHECK(queue.cancel(2));
    CHECK(queue.cancel(3));
    CHECK_FALSE(queue.cancel(2)); // it is not there any more
    CHECK(done.wait_for(1) == std::vector<uint64_t>{1});
    queue.push({4, 1, 4'000, bytes.data(), 2'000}, true);
    CHECK(done.wait_for(2) == std::vector<uint64_t>{1, 4});
    CHECK(device.begun().size() == 22);
}

TEST_CASE("a copy that was begun is not taken back") {
    const auto  bytes = some_bytes(20'000);
    FakeDevice  device({20'000}, 0.2);
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({1, 0, 0, bytes.data(), bytes.size()}, true);
    wait_until_begun(device);
    CHECK_FALSE(queue.cancel(1));
    CHECK(done.wait_for(1) == std::vector<uint64_t>{1});
    CHECK(std::equal(bytes.begin(), bytes.end(), device.data(0, 0)));
}

TEST_CASE("of a copy that was given up on its way only what was begun is copied, and then it is complete") {
    const auto  bytes = some_bytes(100'000);
    FakeDevice  device({100'000, 2'000}, 0.2);
    Completions done;
    CopyQueue   queue(device, 1'000, done.callback());
    queue.push({1, 0, 0, bytes.data(), bytes.size()}, true);
    wait_until_begun(device);
    CHECK_FALSE(queue.give_up(1));
    queue.push({2, 1, 0, bytes.data(), 2'000}, true);
    CHECK(done.wait_for(2) == std::vector<uint64_t>{1, 2});
    const size_t n_begun = device.begun().size();
    CHECK(n_begun < 90);
    CHECK(std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>((n_begun - 2) * 1'000),
                     device.data(0, 0)));
    CHECK(std::equal(bytes.begin(), bytes.begin() + 2'000, device.data(1, 0)));
}

TEST_CASE("its thread leaves the host's signals alone") {
    const auto       bytes = some_bytes(10);
    FakeDevice       device({10});
    std::atomic<int> blocked{-1};
    {
        Completions done;
        CopyQueue   queue(device, 10, [&blocked, tell = done.callback()](uint64_t tag) {
            sigset_t set;
            pthread_sigmask(SIG_SETMASK, nullptr, &set);
            blocked = sigismember(&set, SIGINT);
            tell(tag);
        });
        queue.push({1, 0, 0, bytes.data(), bytes.size()}, true);
        done.wait_for(1);
    }
    CHECK(blocked == 1);
}

TEST_CASE("closing drops what has not begun and waits for the rest") {
    const auto            bytes = some_bytes(1'000'000);
    FakeDevice            device({1'000'000}, 0.1);
    std::atomic<unsigned> n_done{0};
    {
        CopyQueue queue(device, 1'000, [&](uint64_t) { n_done++; });
        queue.push({1, 0, 0, bytes.data(), bytes.size()}, false);
        while (device.begun().empty()) {
            std::this_thread::yield();
        }
    }
    CHECK(n_done == 0);
    CHECK(device.begun().size() < 1'000);
}

} // namespace

} // namespace hobbit
