/* Threads made at qn_open and ended by qn_close: pthreads, Win32, or none (QN_NO_THREADS).
 *
 * Items of work are numbered, and a free member takes the next one; a worker that the system has not woken yet takes nothing,
 * so that on a busy machine the caller does most of it instead of waiting. (With a barrier after each layer a
 * single image took five times as long on two busy cores as on one thread.) Who waits spins first, since a layer
 * of quicknet lasts 10-100 us and a wake-up by the system 5-50, then sleeps, so that an idle engine costs
 * nothing. */
#include "threads.h"

#include <stdint.h>

#ifdef QN_NO_THREADS

struct qn_team {
    size_t taken;
};

size_t qn_team_bytes(int members) {
    (void)members;
    return 64;
}

int qn_team_start(qn_team *team, int members) {
    team->taken = 0;
    return members > 1;
}

void qn_team_run(qn_team *team, void (*job)(void *context, int member), void *context) {
    team->taken = 0;
    job(context, 0);
}

size_t qn_team_take(qn_team *team) { return team->taken++; }
void qn_team_done(qn_team *team) { (void)team; }
void qn_team_wait(qn_team *team, size_t items) {
    (void)team;
    (void)items;
}
void qn_team_stop(qn_team *team) { (void)team; }

#else

#include <stdatomic.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
typedef HANDLE thread_t;
typedef SRWLOCK mutex_t;
typedef CONDITION_VARIABLE condition_t;
#define WORKER DWORD WINAPI
#define WORKER_RESULT 0
static void initialize(mutex_t *mutex, condition_t *condition) {
    InitializeSRWLock(mutex);
    InitializeConditionVariable(condition);
}
static void destroy(mutex_t *mutex, condition_t *condition) {
    (void)mutex;
    (void)condition;
}
static void lock(mutex_t *mutex) { AcquireSRWLockExclusive(mutex); }
static void unlock(mutex_t *mutex) { ReleaseSRWLockExclusive(mutex); }
static void sleep_on(condition_t *condition, mutex_t *mutex) {
    SleepConditionVariableSRW(condition, mutex, INFINITE, 0);
}
static void wake_all(condition_t *condition) { WakeAllConditionVariable(condition); }
static int start(thread_t *thread, LPTHREAD_START_ROUTINE body, void *argument) {
    *thread = CreateThread(NULL, 0, body, argument, 0, NULL);
    return *thread == NULL;
}
static void join(thread_t thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
#else
#include <pthread.h>
typedef pthread_t thread_t;
typedef pthread_mutex_t mutex_t;
typedef pthread_cond_t condition_t;
#define WORKER void *
#define WORKER_RESULT NULL
static void initialize(mutex_t *mutex, condition_t *condition) {
    pthread_mutex_init(mutex, NULL);
    pthread_cond_init(condition, NULL);
}
static void destroy(mutex_t *mutex, condition_t *condition) {
    pthread_cond_destroy(condition);
    pthread_mutex_destroy(mutex);
}
static void lock(mutex_t *mutex) { pthread_mutex_lock(mutex); }
static void unlock(mutex_t *mutex) { pthread_mutex_unlock(mutex); }
static void sleep_on(condition_t *condition, mutex_t *mutex) { pthread_cond_wait(condition, mutex); }
static void wake_all(condition_t *condition) { pthread_cond_broadcast(condition); }
static int start(thread_t *thread, void *(*body)(void *), void *argument) {
    return pthread_create(thread, NULL, body, argument);
}
static void join(thread_t thread) { pthread_join(thread, NULL); }
#endif

/* About 50 us of pauses: 40 cycles each on Zen, 140 on Skylake. */
enum { SPINS = 2000 };

static inline void pause_cpu(void) {
#ifdef _WIN32
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

typedef struct {
    qn_team *team;
    thread_t thread;
    int member;
} worker;

struct qn_team {
    int members;
    void (*job)(void *context, int member);
    void *context;
    mutex_t mutex;
    condition_t changed;
    atomic_int sleepers;
    atomic_int stop;
    atomic_int active; /* workers within a run */
    atomic_uint run;   /* odd while one is open; job and context change only while it is even and none is active */
    atomic_size_t taken;
    atomic_size_t done;
    worker workers[];
};

size_t qn_team_bytes(int members) { return (sizeof(qn_team) + (size_t)(members - 1) * sizeof(worker) + 63) / 64 * 64; }

/* ---- waiting -------------------------------------------------------------------------------------
 * Every change is a sequentially consistent store followed by a look at `sleepers`; a sleeper counts itself
 * before it looks at what changes. So one of the two sees the other, and no wake-up is lost. */

static void announce(qn_team *team) {
    if (atomic_load(&team->sleepers) == 0) return;
    lock(&team->mutex);
    wake_all(&team->changed);
    unlock(&team->mutex);
}

static void wait_until(qn_team *team, int (*ready)(qn_team *team, size_t value), size_t value) {
    for (int i = 0; i < SPINS; i++) {
        if (ready(team, value)) return;
        pause_cpu();
    }
    lock(&team->mutex);
    atomic_fetch_add(&team->sleepers, 1);
    while (!ready(team, value)) sleep_on(&team->changed, &team->mutex);
    atomic_fetch_sub(&team->sleepers, 1);
    unlock(&team->mutex);
}

static int is_done(qn_team *team, size_t items) { return atomic_load(&team->done) >= items; }

static int is_idle(qn_team *team, size_t unused) {
    (void)unused;
    return atomic_load(&team->active) == 0;
}

/* A run other than the last one is open, or the end has come. */
static int is_called(qn_team *team, size_t last) {
    unsigned run = atomic_load(&team->run);
    return atomic_load(&team->stop) || (run % 2 == 1 && run != (unsigned)last);
}

/* ---- a run --------------------------------------------------------------------------------------- */

size_t qn_team_take(qn_team *team) { return atomic_fetch_add(&team->taken, 1); }

void qn_team_done(qn_team *team) {
    atomic_fetch_add(&team->done, 1);
    announce(team);
}

void qn_team_wait(qn_team *team, size_t items) { wait_until(team, is_done, items); }

/* A worker enters a run by counting itself, and looks again whether it is still open. */
static WORKER work(void *argument) {
    worker *self = argument;
    qn_team *team = self->team;
    unsigned last = 0;
    for (;;) {
        wait_until(team, is_called, last);
        if (atomic_load(&team->stop)) return WORKER_RESULT;
        unsigned run = atomic_load(&team->run);
        atomic_fetch_add(&team->active, 1);
        if (run % 2 == 1 && atomic_load(&team->run) == run) team->job(team->context, self->member);
        last = run;
        atomic_fetch_sub(&team->active, 1);
        announce(team);
    }
}

void qn_team_run(qn_team *team, void (*job)(void *context, int member), void *context) {
    team->job = job;
    team->context = context;
    atomic_store(&team->taken, 0);
    atomic_store(&team->done, 0);
    if (team->members == 1) {
        job(context, 0);
        return;
    }
    atomic_fetch_add(&team->run, 1);
    announce(team);
    job(context, 0);
    atomic_fetch_add(&team->run, 1);
    wait_until(team, is_idle, 0);
}

/* ---- the team's life ----------------------------------------------------------------------------- */

/* Ends the workers that exist: `members` counts them and the caller. */
void qn_team_stop(qn_team *team) {
    atomic_store(&team->stop, 1);
    announce(team);
    for (int i = 0; i < team->members - 1; i++) join(team->workers[i].thread);
    destroy(&team->mutex, &team->changed);
}

int qn_team_start(qn_team *team, int members) {
    initialize(&team->mutex, &team->changed);
    atomic_init(&team->sleepers, 0);
    atomic_init(&team->stop, 0);
    atomic_init(&team->active, 0);
    atomic_init(&team->run, 0);
    atomic_init(&team->taken, 0);
    atomic_init(&team->done, 0);
    for (team->members = 1; team->members < members; team->members++) {
        worker *next = &team->workers[team->members - 1];
        next->team = team;
        next->member = team->members;
        if (start(&next->thread, work, next) != 0) {
            qn_team_stop(team);
            return 1;
        }
    }
    return 0;
}

#endif
