/* A team of threads that live as long as the engine and take numbered items of work: threads.c. */
#ifndef QN_THREADS_H
#define QN_THREADS_H
#include <stddef.h>

typedef struct qn_team qn_team;

/* Bytes that a team of so many members needs, a multiple of 64. */
size_t qn_team_bytes(int members);
/* Start members - 1 threads (the caller is member 0). Returns 0, or 1 where the system gives no more of them:
 * then none are left. */
int qn_team_start(qn_team *team, int members);
/* Call job(context, member) as member 0, and on those of the others that wake before it is done. The job takes
 * items until there are no more. Returns when every member that began has returned. */
void qn_team_run(qn_team *team, void (*job)(void *context, int member), void *context);
/* Within a job: the next of 0, 1, 2, ..., each given once; and that an item taken is done. */
size_t qn_team_take(qn_team *team);
void qn_team_done(qn_team *team);
/* Within a job: wait until so many items are done. Whoever waits for items below its own never waits for ever. */
void qn_team_wait(qn_team *team, size_t items);
void qn_team_stop(qn_team *team);

#endif
