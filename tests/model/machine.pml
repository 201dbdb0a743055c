/*
 * The machine that takes requests through a cluster that changes: where a request waits, on which
 * connection it goes, what becomes of it when it is redirected, when its connection is lost, when
 * its client leaves. A model of proxy/dispatcher.cc, proxy/backend.cc and proxy/client.cc, checked
 * in full by spin (check_model.py runs it). An inline has the name of the function whose decision
 * it is; what they do not decide is left out: bytes, RESP, memory, fragments, scripts, replicas.
 *
 * Two clients with three commands each; slot 0 with the keys A and B, slot 1 with the key C; three
 * nodes. Each event is one step: a completion, a due timer, a wake of a client, a flush, or
 * something that happens in the cluster. They come in any order, which is more than the turns of a
 * worker allow. Time has no length: what has a deadline may meet it before or after anything else,
 * and must meet it when nothing else can happen.
 *
 * Every fault has a budget, and a hold ends after ROUNDS_MAX times of waiting, so every run is
 * finite. "Always an answer": where nothing but a further fault can happen, all are answered and
 * all requests are freed; nothing may depend on a fault to go on.
 *
 * Macros: what happens (budgets and choices, see below), and the mutations, each of which takes one
 * guard away: NO_SLOT_GATE, NO_REFUSED_GATE, NO_OVERTAKEN_CHECK, NO_ASKING_ADJACENCY,
 * NO_GENERATION_CHECK, NO_CLOSE_ON_STRAY, RETRY_AFTER_SEND, RETRY_READ_AFTER_WRITE, NO_FENCE,
 * NO_RETIRE_ON_FENCE, NO_HOP_LIMIT, NO_ORPHANS, NO_WAKE_ON_UNKNOWN.
 *
 * What remains (LEFTOVERS_OUTLAST_MOVES): requests that a lost connection left unread at a node are
 * ended by the next handshake there, which comes at once, but not sooner. Until then, that is while
 * the node can't be connected to, or for as long as a connect and a handshake take, it may still
 * run them. That is out of order only if in the meantime the slot has moved away, later commands of
 * the client have run at its new owner, and the slot has come back. Nobody can fence a node
 * that can't be reached. Otherwise the node refuses them (the slot is not its own), or no later
 * command of that slot can have run (all go by the node, after the fence).
 */

/* --- what may happen: 0 is never */
#ifndef MOVES          /* changes of a slot's owner */
#define MOVES 0
#endif
#ifndef MOVE_AT_ONCE   /* they come in one step (failover), not key by key */
#define MOVE_AT_ONCE 0
#endif
#ifndef LIES           /* a node says MOVED, to anybody, whatever is true */
#define LIES 0
#endif
#ifndef REFRESHES      /* refreshes that nobody waits for */
#define REFRESHES 0
#endif
#ifndef OLD_VIEWS      /* refreshes that bring nothing new, whatever has changed */
#define OLD_VIEWS 0
#endif
#ifndef LOSSES         /* connections lost, or out of time */
#define LOSSES 0
#endif
#ifndef RETIRES        /* connections that are to take no new requests, for another reason */
#define RETIRES 0
#endif
#ifndef HANGS          /* a node stops for good */
#define HANGS 0
#endif
#ifndef GONE           /* clients that leave */
#define GONE 0
#endif
#ifndef STRAYS         /* replies that nobody awaits */
#define STRAYS 0
#endif
#ifndef AGES           /* an ASK becomes stale before it is sent */
#define AGES 0
#endif
#ifndef LATE           /* completions of a receive that come after the connection's end */
#define LATE 0
#endif
#ifndef NODE2_KNOWN    /* to the first topology */
#define NODE2_KNOWN 1
#endif
#ifndef EARLY_DEADLINES /* holds may end at any moment */
#define EARLY_DEADLINES 0
#endif
#ifndef HOPS_MAX
#define HOPS_MAX 2
#endif
#ifndef ROUNDS_MAX
#define ROUNDS_MAX 1
#endif

/* --- properties. In the second form the search goes on elsewhere and tells which were violated. */
#ifdef COUNT
c_decl {
  \#include <stdio.h>
  \#include <stdlib.h>
  static unsigned violated;
  static void TellViolated(void) {
    for (int p = 1; p <= 6; ++p)
      if (violated >> p & 1) printf("violated: P%d\n", p);
  }
  static void Note(unsigned p) {
    if (violated == 0) atexit(TellViolated);
    violated |= 1u << p;
  }
};
#define CHECK(number, name, condition) \
  if :: broken || (condition) :: else -> broken = 1; c_code { Note(number); } fi
#else
hidden byte P1_isolation, P2_order, P3_at_most_once, P4_answered, P5_hops, P6_freed_once;
#define CHECK(number, name, condition) assert((condition) || name)
#endif

/* Lines: shared connections that each node has at a time. A request goes by one of them. */
#ifndef LINES
#define LINES 1
#endif
#if LINES == 1
#define LINE(r) 0
#elif defined(LINE_BY_COMMAND) /* a large request has a private connection */
#define LINE(r) ((r) % 2)
#else /* RESP2 and RESP3 */
#define LINE(r) CLIENT(r)
#endif
/* Where it matters, or if asked for, the fence is done step by step, else at once. */
#if (LINES > 1 || RETIRES) && !defined(FENCE_STEPS)
#define FENCE_STEPS
#endif
#define PAIRS (3 * LINES)
#define NODE(n) ((n) % 3)

#define PER_CLIENT 3
#define REQUESTS 6
#define CLIENT(r) ((r) / PER_CLIENT)
#define NOBODY 3 /* no node; as a target: a node that is not of this cluster */

/* Keys are bits: A and B are in slot 0, C in slot 1. */
#define A 1
#define B 2
#define C 4
#define SLOT(r) (q[r].keys >> 2)
#define ONE_KEY(k) (((k) & ((k) - 1)) == 0)

/* request.h: Request::State; before TakeFrame, and after RequestPool::Give */
#define kNotTaken 0
#define kWaiting 1
#define kQueued 2
#define kSent 3
#define kReady 4
#define kFreed 5

/* answers */
#define kReply 1
#define kNotExecuted 2
#define kUnknown 3

typedef Request {
  unsigned keys : 3;
  bit write;
  unsigned state : 3;
  unsigned backend : 5; /* kQueued, kSent */
  bit orphan;           /* Request::client is null */
  bit asking;
  bit handed_over;
  bit read_retried;
  unsigned redirections : 3;
  /* Hold */
  bit hold;
  bit refused;
  bit due;        /* deadline <= now */
  bit later;      /* not_before > now */
  bit for_node;   /* … until its node can be connected to, or another topology (for_topology) */
  bit ask;
  bit stale;      /* AskIsStale */
  bit redirected;
  bit seeking;    /* target_host is set */
  bit refresh;    /* refresh_ask > refresh_answered */
  unsigned target : 2;
  unsigned refused_by : 2;
  unsigned swaps : 2; /* topology_number - redirected_in, at most 2 */
  unsigned rounds : 2;
  /* what really happened */
  bit ran;
  unsigned answer : 2;
};
Request q[REQUESTS];

/*
 * Queues: four bits an entry, the first one lowest. Request r is r + 1, with ASKED if an ASKING is
 * before it on the wire.
 */
#define ASKED 8
#define FRONT(queue) ((queue) & 15)
#define REQUEST(entry) (((entry) & 7) - 1)
#define LENGTH(queue) ((queue) == 0 -> 0 : ((queue) < 16 -> 1 : ((queue) < 256 -> 2 : \
  ((queue) < 4096 -> 3 : ((queue) < 65536 -> 4 : ((queue) < 1048576 -> 5 : 6))))))
#define PUSH(queue, entry) queue = queue | ((entry) << (4 * LENGTH(queue)))
#define POP(queue) queue = queue >> 4

/* backend.h: Backend::State */
#define kFree 0
#define kConnecting 1
#define kOpen 2
#define kClosing 3
#define kHandshake 4 /* without FENCE_STEPS, that is part of kConnecting */
#define kKilling 5   /* CLIENT LIST is answered, CLIENT KILL is not */
#define kRetired 6

/* Replies under way. MOVED and ASK carry a node. */
#define REPLY_OK 1
#define REPLY_TRYAGAIN 2
#define REPLY_MOVED 4
#define REPLY_ASK 8

/*
 * Connections of the line n / 3 to the node n % 3: the one in use, the one before it, which is
 * closing, and one that is retired: it owes replies. With one line n is the node. One that is
 * retired and owes nothing is gone at once: nothing can come of it.
 */
#if LINES > 1 || RETIRES
#define SLOTS 3
#else
#define SLOTS 2
#endif
#define USED(n) (SLOTS * (n))
#define OLD(n) (SLOTS * (n) + 1)
#define RETIRED(n) (SLOTS * (n) + 2)
typedef Connection {
  unsigned state : 3;
  bit cut;              /* the node has been told to end it (fence) */
  bit protocol_error;   /* Failure::kProtocol */
  unsigned handed : 3;  /* while it is settled: so many of those in `sent` were handed over */
  unsigned unsent : 24;
  /* The pending ring: what the node has read, and behind it what it has not. */
  unsigned read : 24;
  unsigned sent : 24;
  unsigned replies : 24; /* to those in `read` */
};
Connection k[SLOTS * PAIRS];

/* Requests that a connection which has ended left unread at node n. */
typedef Leftovers { unsigned queue : 24; };
/*
 * NodeBackends::old_connections, and Backend::fencing_: of which lines, as bits. Two of a line may
 * share a bit: when the second is added, no handshake goes on that had copied the first.
 */
byte old_connections[3];
#ifdef FENCE_STEPS
byte fencing[PAIRS];
#endif
#ifdef LINE_BY_COMMAND
bit unfenced[PAIRS]; /* private and in use, fences_seen_ != NodeBackends::fences */
#endif
Leftovers unread[PAIRS];

#ifdef NO_CLOSE_ON_STRAY
bit stray[PAIRS]; /* a reply that nobody awaited is still in the input */
#define HAS_STRAY(n) (stray[n])
#else
#define HAS_STRAY(n) 0
#endif

bit wake_wanted[2];
bit plain[2]; /* Client::plain_epoch == Worker::route_epoch */
bit gone[2];
byte head[2]; /* of the client's queue */
bit down[3];  /* NodeBackends::available_at > now */
bit hung[3];
bit late[PAIRS];  /* a completion for an earlier generation is on its way */

/* The cluster: slot s has had version[s] changes of its owner. */
typedef SlotState {
  unsigned version : 2;
  unsigned second : 2;  /* its owner after two changes */
  unsigned to : 2;      /* migrating to; NOBODY: not migrating */
  unsigned known : 2;   /* the version that the worker's topology has */
};
SlotState slot[2];
unsigned moved : 3;     /* the keys that are at their slot's migration target */
bit node2_known;

unsigned moves : 2, lies : 3, refreshes : 2, old_views : 2, losses : 2, hangs : 1, leavers : 2;
unsigned strays : 1, ages : 1, retires : 2;
bit broken;
byte chosen;

/* Slot 0 goes from node 0 to 1, slot 1 from 1 to 2; then on, or back. */
#define OWNER_IN(s, v) ((v) == 0 -> (s) : ((v) == 1 -> (s) + 1 : slot[s].second))
#define OWNER(s) OWNER_IN(s, slot[s].version)
#define TOPOLOGY_OWNER(s) OWNER_IN(s, slot[s].known)
#define IN_TOPOLOGY(n) ((n) < 2 || ((n) == 2 && node2_known))

#define IS_OUT(r) (q[r].state == kQueued || q[r].state == kSent)
#define UNANSWERED(r) (q[r].state >= kWaiting && q[r].state <= kSent)
#define WAITS(r) (q[r].state == kWaiting)
#define ANY_WAITS(c) (WAITS(3 * (c)) || WAITS(3 * (c) + 1) || WAITS(3 * (c) + 2))
/* An orphan is nobody's: it does not count as in flight. */
#define OUT_OF(r) (IS_OUT(r) && !q[r].orphan)
#define NONE_IN_FLIGHT(c) (!OUT_OF(3 * (c)) && !OUT_OF(3 * (c) + 1) && !OUT_OF(3 * (c) + 2))

#define OWES(b) (k[b].read != 0 || k[b].sent != 0)
#define PENDING(n) OWES(USED(n))
#define MAY_RUN_LATE(n) (unread[n].queue != 0 || k[OLD(n)].sent != 0)
#define ANY_LEFTOVER (MAY_RUN_LATE(0) || MAY_RUN_LATE(1) || MAY_RUN_LATE(2) || \
  MAY_RUN_LATE(PAIRS - 3) || MAY_RUN_LATE(PAIRS - 2) || MAY_RUN_LATE(PAIRS - 1))

/* Scratch, never part of a state: each is written before it is read in the same step. */
hidden byte i_take, i_forget, i_gate, i_note, i_wake, i_run, i_flush, i_repeat, i_adopt, i_fail;
hidden byte i_retire, retire_r;
hidden byte to_node, wake_r, flush_r, flush_r2, flush_c, flush_s, settle_r, give_r, reply, entry;
hidden byte expired;
hidden byte asked_flag, has_backend, to_plain, overtaken, open_gate, may_repeat, may_go, at_head;
hidden byte verdict, behind, last_out[2], on[2], zombie;
hidden byte several[2], slot_waits[2];
hidden int queue_, retire_queue;
#define kGo 0
#define kNotYet 1
#define kExpired 2
#define NOWHERE 31

/* --- requests (client.cc) */

inline Give(r) {
  CHECK(6, P6_freed_once, q[r].state != kFreed);
  q[r].state = kFreed;
  q[r].backend = 0; q[r].orphan = 0; q[r].asking = 0; q[r].handed_over = 0; q[r].read_retried = 0;
  q[r].redirections = 0;
  ForgetHold(r)
}

/* What was true of an answered request is of no more use once nothing of it can come back. */
inline Forget(r) {
  if
  :: !ANY_LEFTOVER -> q[r].keys = 0; q[r].write = 0; q[r].ran = 0; q[r].answer = 0
  :: else
  fi
}

inline ForgetAll() {
  for (i_forget : 0 .. REQUESTS - 1) {
    if
    :: q[i_forget].state == kFreed && i_forget % PER_CLIENT < head[CLIENT(i_forget)] ->
       Forget(i_forget)
    :: else
    fi
  }
}

inline ForgetHold(r) {
  q[r].hold = 0; q[r].refused = 0; q[r].due = 0; q[r].later = 0; q[r].for_node = 0; q[r].ask = 0;
  q[r].stale = 0; q[r].redirected = 0; q[r].seeking = 0; q[r].refresh = 0; q[r].target = NOBODY;
  q[r].refused_by = NOBODY; q[r].swaps = 0; q[r].rounds = 0
}

/* Client::Finish and SendReadyPrefix */
inline Finish(r, how) {
  CHECK(3, P3_at_most_once, (how) != kNotExecuted || !q[r].ran);
  q[r].answer = how;
  q[r].state = kReady;
  q[r].backend = 0; q[r].asking = 0; q[r].handed_over = 0; q[r].read_retried = 0;
  q[r].redirections = 0;
  ForgetHold(r);
  i_take = CLIENT(r);
  do
  :: head[i_take] < PER_CLIENT && q[3 * i_take + head[i_take]].state == kReady ->
     give_r = 3 * i_take + head[i_take];
     head[i_take] = head[i_take] + 1;
     Give(give_r)
  :: else -> break
  od;
  ForgetAll()
}

/* Dispatcher::NoteMayHaveRun: refused ones before it that share a key can't run any more. */
inline NoteMayHaveRun(r) {
#ifndef NO_OVERTAKEN_CHECK
  for (i_note : 3 * CLIENT(r) .. (r)) {
    if
    :: i_note != (r) && WAITS(i_note) && SLOT(i_note) == SLOT(r) && q[i_note].hold &&
       q[i_note].refused && (q[i_note].keys & q[r].keys) != 0 -> q[i_note].due = 1
    :: else
    fi
  }
#endif
  skip
}

inline AnswerUnknown(r) {
  NoteMayHaveRun(r);
  Finish(r, kUnknown);
#ifndef NO_WAKE_ON_UNKNOWN
  if :: ANY_WAITS(CLIENT(r)) -> wake_wanted[CLIENT(r)] = 1 :: else fi
#endif
  skip
}

inline Wait(r) {
  q[r].state = kWaiting;
  q[r].backend = 0;
  q[r].asking = 0
}

/* --- where to (dispatcher.cc) */

#ifdef LINE_BY_COMMAND
/*
 * Line 1 is private: it has one request at a time. Another would have one more connection; here it
 * waits until the line is idle, woken whenever a connection changes, which is oftener than needed.
 */
#define RaiseRouteEpoch() plain[0] = 0; plain[1] = 0; WakeAllWaiting()
#define IS_TAKEN(n) ((n) >= 3 && (PENDING(n) || k[USED(n)].unsent != 0))
#else
#define RaiseRouteEpoch() plain[0] = 0; plain[1] = 0
#define IS_TAKEN(n) false
#endif

inline IsOvertakenByTopology(r) {
  overtaken = !q[r].ask && q[r].swaps > 0 &&
              (q[r].swaps >= 2 || TOPOLOGY_OWNER(SLOT(r)) != q[r].refused_by)
}

inline ByTopology(r) {
  q[r].redirected = 0; q[r].ask = 0; q[r].stale = 0; q[r].target = NOBODY;
  q[r].refused_by = NOBODY; q[r].swaps = 0
}

inline ChooseNode(r) {
  to_node = NOBODY;
  to_plain = 0;
  if
  :: q[r].redirected ->
     IsOvertakenByTopology(r);
     if
     :: IN_TOPOLOGY(q[r].target) && !(q[r].ask && q[r].stale) && !overtaken ->
        to_node = q[r].target
     :: else -> ByTopology(r)
     fi
  :: else
  fi;
  if
  :: to_node == NOBODY -> to_node = TOPOLOGY_OWNER(SLOT(r)); to_plain = 1
  :: else
  fi
}

/* FindRoute, and BackendPool::Shared: opens a connection where there is none and may be one. */
inline FindRoute(r) {
  ChooseNode(r);
  to_node = to_node + 3 * LINE(r);
#ifdef LINE_BY_COMMAND
  if :: to_node >= 3 -> to_plain = 0 :: else fi;
#endif
  has_backend = k[USED(to_node)].state != kFree;
  if
  :: !has_backend && !down[NODE(to_node)] ->
     k[USED(to_node)].state = kConnecting;
     RaiseRouteEpoch();
     has_backend = 1
  :: else
  fi
}

inline EarlierInTheWay(r) {
  open_gate = 1;
  for (i_gate : 3 * CLIENT(r) .. 3 * CLIENT(r) + 2) {
    if
    :: i_gate != (r) && UNANSWERED(i_gate) && SLOT(i_gate) == SLOT(r) &&
       (!IS_OUT(i_gate) || q[i_gate].backend != USED(to_node)) -> open_gate = 0
    :: else
    fi
  }
}

inline GateOpen(r) {
#ifdef NO_SLOT_GATE
  open_gate = 1
#else
  if
  :: !ANY_WAITS(CLIENT(r)) && NONE_IN_FLIGHT(CLIENT(r)) -> open_gate = 1
  :: !ANY_WAITS(CLIENT(r)) && !NONE_IN_FLIGHT(CLIENT(r)) && to_plain && plain[CLIENT(r)] ->
     open_gate = 1
  :: else -> EarlierInTheWay(r)
  fi
#endif
}

inline Send(r) {
  if
  :: !to_plain -> plain[CLIENT(r)] = 0
  :: to_plain && NONE_IN_FLIGHT(CLIENT(r)) -> plain[CLIENT(r)] = 1
  :: else
  fi;
  q[r].asking = q[r].ask;
  q[r].state = kQueued;
  q[r].backend = USED(to_node);
  PUSH(k[USED(to_node)].unsent, (r) + 1)
}

inline HoldForNode(r) {
  q[r].hold = 1;
  q[r].later = 1;
  q[r].for_node = 1;
  ByTopology(r)
}

/* Dispatcher::Start, of the client's next command */
inline Start(r) {
  FindRoute(r);
  GateOpen(r);
  if
  :: has_backend && open_gate && !IS_TAKEN(to_node) -> Send(r)
  :: else ->
     Wait(r);
     if :: !has_backend -> HoldForNode(r) :: else fi;
     wake_wanted[CLIENT(r)] = 1
  fi
}

/* --- waiting */

inline AskAgain(r) {
  q[r].later = 1;
  q[r].refresh = 1;
  if :: q[r].rounds < 3 -> q[r].rounds = q[r].rounds + 1 :: else fi;
  verdict = kNotYet
}

inline FindTarget(r) {
  IsOvertakenByTopology(r);
  if
  :: IN_TOPOLOGY(q[r].target) && q[r].target != q[r].refused_by && !overtaken &&
     (!q[r].refresh || q[r].redirections <= 1) ->
     q[r].redirected = 1;
     q[r].seeking = 0;
     verdict = kGo
  :: else ->
     if
     :: q[r].refresh -> verdict = kNotYet
     :: !q[r].refresh &&
        (IN_TOPOLOGY(q[r].target) ||
         (q[r].ask -> slot[SLOT(r)].to == NOBODY /* HasStoppedMoving */ :
          !(TOPOLOGY_OWNER(SLOT(r)) == q[r].refused_by && q[r].swaps == 0))) ->
        q[r].seeking = 0;
        ByTopology(r);
        verdict = kGo
     :: else -> AskAgain(r)
     fi
  fi
}

inline CheckHold(r) {
  if
  :: !q[r].hold -> verdict = kGo
  :: q[r].hold && q[r].due -> verdict = kExpired
  :: q[r].hold && !q[r].due && q[r].later -> verdict = kNotYet
  :: else ->
     q[r].for_node = 0;
     if
     :: q[r].seeking -> FindTarget(r)
     :: !q[r].seeking && q[r].refresh -> verdict = kNotYet
     :: else -> verdict = kGo
     fi
  fi
}

/* Dispatcher::Expire */
inline Expire(r) {
  if
  :: q[r].read_retried -> NoteMayHaveRun(r); Finish(r, kUnknown)
  :: else -> Finish(r, kNotExecuted)
  fi
}

inline Wake(c) {
  wake_wanted[c] = 0;
  expired = 0;
  last_out[0] = 0; last_out[1] = 0; on[0] = NOWHERE; on[1] = NOWHERE;
  several[0] = 0; several[1] = 0; slot_waits[0] = 0; slot_waits[1] = 0;
  for (i_wake : 0 .. 2) {
    wake_r = 3 * (c) + i_wake;
    if :: IS_OUT(wake_r) -> last_out[SLOT(wake_r)] = i_wake + 1 :: else fi
  }
  for (i_wake : 0 .. 2) {
    wake_r = 3 * (c) + i_wake;
    if
    :: IS_OUT(wake_r) ->
       if
       :: on[SLOT(wake_r)] != NOWHERE && on[SLOT(wake_r)] != q[wake_r].backend ->
          several[SLOT(wake_r)] = 1
       :: else
       fi;
       on[SLOT(wake_r)] = q[wake_r].backend
    :: WAITS(wake_r) ->
       CheckHold(wake_r);
       if
       :: verdict == kExpired -> expired = expired | (1 << i_wake)
       :: else ->
          may_go = verdict == kGo && !slot_waits[SLOT(wake_r)] && !several[SLOT(wake_r)];
#ifndef NO_REFUSED_GATE
          if
          :: q[wake_r].refused && last_out[SLOT(wake_r)] > i_wake + 1 -> may_go = 0
          :: else
          fi;
#endif
          if
          :: may_go ->
             FindRoute(wake_r);
             if
             :: !has_backend -> HoldForNode(wake_r); may_go = 0
             :: has_backend &&
                ((on[SLOT(wake_r)] != NOWHERE && on[SLOT(wake_r)] != USED(to_node)) ||
                 IS_TAKEN(to_node)) ->
                may_go = 0
             :: else ->
                Send(wake_r);
                on[SLOT(wake_r)] = USED(to_node);
                /* A refused one of several keys may be refused again. */
                if
                :: q[wake_r].refused && !ONE_KEY(q[wake_r].keys) -> slot_waits[SLOT(wake_r)] = 1
                :: else
                fi
             fi
          :: else
          fi;
          if :: !may_go -> slot_waits[SLOT(wake_r)] = 1 :: else fi
       fi
    :: else
    fi
  }
  for (i_wake : 0 .. 2) {
    wake_r = 3 * (c) + i_wake;
    if :: (expired >> i_wake) & 1 -> Expire(wake_r) :: else fi
  }
}

inline WakeAllWaiting() {
  if :: ANY_WAITS(0) -> wake_wanted[0] = 1 :: else fi;
  if :: ANY_WAITS(1) -> wake_wanted[1] = 1 :: else fi
}

/* --- replies (client.cc, dispatcher.cc) */

inline OnRedirection(r, n, node, is_ask) {
  q[r].redirections = q[r].redirections + 1;
  CHECK(5, P5_hops, q[r].redirections <= HOPS_MAX + 1);
#ifdef NO_HOP_LIMIT
  if
  :: false
#else
  if
  :: q[r].redirections > HOPS_MAX ->
     if
     :: q[r].read_retried -> AnswerUnknown(r)
     :: else -> Finish(r, kNotExecuted)
     fi
#endif
  :: else ->
     q[r].hold = 1; q[r].refused = 1; q[r].ask = is_ask; q[r].stale = 0; q[r].redirected = 0;
     q[r].refused_by = n; q[r].target = node; q[r].swaps = 0; q[r].later = 0;
     if
     :: !IN_TOPOLOGY(node) || node == n || (!(is_ask) && q[r].redirections > 1) ->
        q[r].seeking = 1;
        q[r].refresh = 1;
        if :: q[r].redirections > 1 -> q[r].later = 1 :: else fi
     :: else ->
        q[r].redirected = 1;
        q[r].seeking = 0
     fi;
     Wait(r);
     wake_wanted[CLIENT(r)] = 1
  fi
}

inline WaitAndRetry(r) {
  q[r].hold = 1;
  q[r].refused = 1;
  q[r].redirections = 0;
  q[r].later = 1;
  if :: q[r].rounds < 3 -> q[r].rounds = q[r].rounds + 1 :: else fi;
  Wait(r);
  wake_wanted[CLIENT(r)] = 1
}

/* Client::OnReplyPiece, of a whole reply */
inline OnReply(r, n) {
  q[r].state = kNotTaken; /* not on a backend any more */
  if :: ANY_WAITS(CLIENT(r)) -> wake_wanted[CLIENT(r)] = 1 :: else fi;
  if
  :: reply == REPLY_OK -> NoteMayHaveRun(r); Finish(r, kReply)
  :: reply == REPLY_TRYAGAIN -> WaitAndRetry(r)
  :: reply >= REPLY_MOVED && reply < REPLY_ASK -> OnRedirection(r, NODE(n), reply - REPLY_MOVED, 0)
  :: else -> OnRedirection(r, NODE(n), reply - REPLY_ASK, 1)
  fi
}

/* Backend::TakeReplies, one of them, on connection b. */
inline TakeReply(n, b) {
  entry = REQUEST(FRONT(k[b].read));
  POP(k[b].read);
  reply = FRONT(k[b].replies);
  POP(k[b].replies);
  CHECK(6, P6_freed_once, q[entry].state == kSent && q[entry].backend == b);
  if
  :: q[entry].orphan -> Give(entry)
  :: else -> OnReply(entry, n)
  fi;
  AfterReply(n, b)
}

inline AfterReply(n, b) {
#if SLOTS == 3
  if
  :: k[b].state == kRetired && !OWES(b) -> k[b].state = kFree; RaiseRouteEpoch()
  :: else
  fi;
#endif
#ifdef LINE_BY_COMMAND
  /* BackendPool::GiveBack */
  if
  :: b == USED(n) && unfenced[n] && !PENDING(n) && k[USED(n)].unsent == 0 -> Retire(n)
  :: else -> WakeAllWaiting()
  fi;
#endif
  skip
}

/* --- connections (backend.cc) */

/* SettleOne(…, handed_over = false): OnNotHandedOver */
inline SettleNotHandedOver(r) {
  CHECK(6, P6_freed_once, IS_OUT(r));
  if
  :: q[r].orphan -> Give(r)
  :: else ->
     q[r].handed_over = 0;
     q[r].hold = 1;
     Wait(r);
     wake_wanted[CLIENT(r)] = 1
  fi
}

inline MayRepeat(r) {
#ifdef RETRY_AFTER_SEND
  may_repeat = 1
#else
  may_repeat = !q[r].write && !q[r].read_retried;
#ifndef RETRY_READ_AFTER_WRITE
  for (i_repeat : (r) .. 3 * CLIENT(r) + 2) {
    if
    :: UNANSWERED(i_repeat) && SLOT(i_repeat) == SLOT(r) && q[i_repeat].handed_over &&
       q[i_repeat].write -> may_repeat = 0
    :: else
    fi
  }
#endif
#endif
}

inline SettleHandedOver(r, b) {
  CHECK(6, P6_freed_once, IS_OUT(r));
  if
  :: q[r].orphan -> Give(r)
  :: else ->
     MayRepeat(r);
     if
     :: may_repeat && !k[b].protocol_error ->
        q[r].read_retried = 1;
        q[r].hold = 1;
        Wait(r);
        wake_wanted[CLIENT(r)] = 1
     :: else ->
        q[r].state = kNotTaken;
        AnswerUnknown(r)
     fi
  fi
}

/* Backend::Flush, with GiveBack */
inline Flush(n) {
  queue_ = k[USED(n)].unsent;
  k[USED(n)].unsent = 0;
  do
  :: queue_ == 0 -> break
  :: else ->
     flush_r = REQUEST(FRONT(queue_));
     POP(queue_);
     CHECK(6, P6_freed_once, q[flush_r].state == kQueued);
     if
     :: q[flush_r].orphan -> Give(flush_r)
     :: !q[flush_r].orphan && q[flush_r].asking && q[flush_r].stale ->
        flush_c = CLIENT(flush_r);
        flush_s = SLOT(flush_r);
        SettleNotHandedOver(flush_r);
        /* Those behind it, too. */
        behind = LENGTH(queue_);
        for (i_flush : 1 .. 6) {
          if
          :: i_flush <= behind ->
             flush_r = REQUEST(FRONT(queue_));
             POP(queue_);
             if
             :: !q[flush_r].orphan && CLIENT(flush_r) == flush_c && SLOT(flush_r) == flush_s ->
                SettleNotHandedOver(flush_r)
             :: else -> PUSH(queue_, flush_r + 1)
             fi
          :: else
          fi
        }
     :: else ->
#ifdef NO_ASKING_ADJACENCY
        if
        :: q[flush_r].asking && queue_ != 0 && !q[REQUEST(FRONT(queue_))].orphan ->
           PUSH(k[USED(n)].sent, FRONT(queue_) | ASKED);
           PUSH(k[USED(n)].sent, flush_r + 1);
           flush_r2 = REQUEST(FRONT(queue_));
           POP(queue_);
           q[flush_r2].state = kSent;
           q[flush_r2].handed_over = 1
        :: else -> PUSH(k[USED(n)].sent, (flush_r + 1) | (q[flush_r].asking -> ASKED : 0))
        fi;
#else
        PUSH(k[USED(n)].sent, (flush_r + 1) | (q[flush_r].asking -> ASKED : 0));
#endif
        q[flush_r].state = kSent;
        q[flush_r].handed_over = 1
     fi
  od
}

/*
 * Backend::Retire: it takes no new requests. Also of one that is not open yet: Fail(kRetired). What
 * it owes is still answered, what is unsent finds another way.
 */
inline Retire(n) {
  retire_queue = k[USED(n)].unsent;
  k[USED(n)].unsent = 0;
#if SLOTS == 3
  if
  :: k[USED(n)].state == kOpen && PENDING(n) ->
     k[RETIRED(n)].read = k[USED(n)].read; k[USED(n)].read = 0;
     k[RETIRED(n)].sent = k[USED(n)].sent; k[USED(n)].sent = 0;
     k[RETIRED(n)].replies = k[USED(n)].replies; k[USED(n)].replies = 0;
     k[RETIRED(n)].state = kRetired;
     for (i_retire : 0 .. REQUESTS - 1) {
       if
       :: q[i_retire].state == kSent && q[i_retire].backend == USED(n) ->
          q[i_retire].backend = RETIRED(n)
       :: else
       fi
     }
  :: else
  fi;
#endif
  k[USED(n)].state = kFree;
#ifdef FENCE_STEPS
  fencing[n] = 0;
#endif
#ifdef LINE_BY_COMMAND
  unfenced[n] = 0;
#endif
  RaiseRouteEpoch();
  do
  :: retire_queue == 0 -> break
  :: else ->
     retire_r = REQUEST(FRONT(retire_queue));
     POP(retire_queue);
     SettleNotHandedOver(retire_r)
  od
}

/* BackendPool::Retire, NotFenced: of one whose handshake has begun without the newest entry. */
inline RetireNotFenced(n) {
  if
  :: k[USED(n)].state == kFree || k[USED(n)].state == kConnecting -> skip
#ifdef LINE_BY_COMMAND
  /* A private one that is in use is in no list. */
  :: IS_TAKEN(n) && k[USED(n)].state != kConnecting && k[USED(n)].state != kFree ->
     unfenced[n] = 1
#endif
  :: !IS_TAKEN(n) && k[USED(n)].state != kConnecting && k[USED(n)].state != kFree -> Retire(n)
  fi
}

/* BackendPool::Fence */
inline Fence(n) {
  old_connections[NODE(n)] = old_connections[NODE(n)] | (1 << ((n) / 3));
#if SLOTS == 3 && !defined(NO_RETIRE_ON_FENCE)
  RetireNotFenced(n);
#if LINES > 1
  RetireNotFenced((n + 3) % PAIRS);
#endif
#endif
  skip
}

#define MOVE(field) k[OLD(n)].field = k[b].field; k[b].field = 0

/*
 * Backend::Fail of connection b, open or retired: it is closing, and takes its requests along.
 * FenceOff: the node may still hold them unread.
 */
inline Fail(n, b, is_protocol_error) {
#ifdef NO_CLOSE_ON_STRAY
  stray[n] = 0;
#endif
  MOVE(unsent); MOVE(read); MOVE(sent);
  k[OLD(n)].state = kClosing;
  k[OLD(n)].protocol_error = is_protocol_error;
#if LATE
  late[n] = k[b].replies != 0;
#endif
  k[b].replies = 0;
  k[b].state = kFree;
#ifdef LINE_BY_COMMAND
  if :: b == USED(n) -> unfenced[n] = 0 :: else fi;
#endif
  for (i_fail : 0 .. REQUESTS - 1) {
    if
    :: IS_OUT(i_fail) && q[i_fail].backend == b -> q[i_fail].backend = OLD(n)
    :: else
    fi
  }
  RaiseRouteEpoch();
  if :: OWES(OLD(n)) -> Fence(n) :: else fi
}

/* It could not be connected, or its handshake failed: nothing was handed over. */
inline FailToConnect(n) {
  queue_ = k[USED(n)].unsent;
  k[USED(n)].unsent = 0;
  k[USED(n)].state = kFree;
  down[NODE(n)] = 1;
#ifdef FENCE_STEPS
  fencing[n] = 0;
#endif
#ifdef LINE_BY_COMMAND
  unfenced[n] = 0;
#endif
  RaiseRouteEpoch();
  do
  :: queue_ == 0 -> break
  :: else -> settle_r = REQUEST(FRONT(queue_)); POP(queue_); SettleNotHandedOver(settle_r)
  od
}

/* BackendPool::ConnectToFence, also if nobody needs it */
inline ConnectToFence(n) {
  k[USED(n)].state = kConnecting;
  RaiseRouteEpoch()
}

/* Backend::SendHandshake copies the node's list. */
inline SendHandshake(n) {
  k[USED(n)].state = kHandshake;
#ifdef FENCE_STEPS
  fencing[n] = old_connections[NODE(n)];
#endif
  RaiseRouteEpoch()
}

/* Backend::OnHandshakeFrame, Step::kFenceList */
inline SendKill(n) { k[USED(n)].state = kKilling }

/*
 * BackendPool::OnFenced, of line n: what an earlier connection of it left at its node will not be
 * read any more. That this is so before may be had from LEFT_OVER.
 */
inline OnFenced(n) {
#ifndef NO_FENCE
  unread[n].queue = 0;
  if
  :: k[OLD(n)].state == kClosing && OWES(OLD(n)) -> k[OLD(n)].cut = 1
  :: else
  fi;
#endif
  old_connections[NODE(n)] = old_connections[NODE(n)] & ~(1 << ((n) / 3))
}
#ifdef FENCE_STEPS
#define FENCES(n, line) ((fencing[n] >> line) & 1)
#else
#define FENCES(n, line) ((old_connections[NODE(n)] >> line) & 1)
#endif

/* Backend::FinishHandshake, which comes after the fence's replies. */
inline FinishHandshake(n) {
  k[USED(n)].state = kOpen;
  if :: FENCES(n, 0) -> OnFenced(NODE(n)) :: else fi;
#if LINES > 1
  if :: FENCES(n, 1) -> OnFenced(NODE(n) + 3) :: else fi;
#endif
#ifdef FENCE_STEPS
  fencing[n] = 0;
#endif
  RaiseRouteEpoch();
  WakeAllWaiting()
}

/* Backend::Settle: the send has completed, and said how much was handed over. */
inline Settle(n) {
  queue_ = k[OLD(n)].read;
  k[OLD(n)].read = 0;
  do
  :: queue_ == 0 -> break
  :: else -> settle_r = REQUEST(FRONT(queue_)); POP(queue_); SettleHandedOver(settle_r, OLD(n))
  od;
  queue_ = k[OLD(n)].sent;
  k[OLD(n)].sent = 0;
  do
  :: queue_ == 0 -> break
  :: else ->
     entry = FRONT(queue_);
     settle_r = REQUEST(entry);
     POP(queue_);
     if
     :: k[OLD(n)].handed > 0 ->
        k[OLD(n)].handed = k[OLD(n)].handed - 1;
        /* Six fit; there are no more without the fence, either, but for what was repeated. */
        if
        :: !k[OLD(n)].cut && LENGTH(unread[n].queue) < 6 -> PUSH(unread[n].queue, entry)
        :: else
        fi;
        SettleHandedOver(settle_r, OLD(n))
     :: else -> SettleNotHandedOver(settle_r)
     fi
  od;
  queue_ = k[OLD(n)].unsent;
  k[OLD(n)].unsent = 0;
  do
  :: queue_ == 0 -> break
  :: else -> settle_r = REQUEST(FRONT(queue_)); POP(queue_); SettleNotHandedOver(settle_r)
  od;
  k[OLD(n)].state = kFree;
  k[OLD(n)].cut = 0;
  k[OLD(n)].protocol_error = 0;
  RaiseRouteEpoch()
}

/* --- the end of a client */

/* Client::DropRequests */
inline DropRequests(c) {
  gone[c] = 1;
  wake_wanted[c] = 0;
  plain[c] = 0;
  head[c] = PER_CLIENT;
  for (i_take : 3 * (c) .. 3 * (c) + 2) {
    if
    :: IS_OUT(i_take) ->
#ifdef NO_ORPHANS
       Give(i_take)
#else
       q[i_take].orphan = 1;
       ForgetHold(i_take)
#endif
    :: q[i_take].state == kWaiting || q[i_take].state == kReady -> Give(i_take)
    :: q[i_take].state == kNotTaken -> q[i_take].state = kFreed /* never was */
    :: else
    fi
  }
}

/* --- nodes */

inline Execute(r) {
  CHECK(3, P3_at_most_once, !(q[r].write && q[r].ran) && q[r].answer != kNotExecuted);
  /* Only the first run of a write counts here; a read that nobody waits for changes nothing. */
  if
  :: (q[r].write && !q[r].ran) || (!q[r].write && !zombie) ->
     for (i_run : (r) .. 3 * CLIENT(r) + 2) {
       CHECK(2, P2_order, i_run == (r) || !q[i_run].ran || (q[i_run].keys & q[r].keys) == 0 ||
                          (!q[i_run].write && !q[r].write))
     }
  :: else
  fi;
  q[r].ran = 1
}

/* What node n does with a request, in `reply`. */
inline Answer(n, r, asked) {
  if
  :: OWNER(SLOT(r)) == NODE(n) ->
     if
     :: slot[SLOT(r)].to == NOBODY || (q[r].keys & moved) == 0 -> reply = REPLY_OK
     :: slot[SLOT(r)].to != NOBODY && (q[r].keys & moved) == q[r].keys ->
        reply = REPLY_ASK + slot[SLOT(r)].to
     :: else -> reply = REPLY_TRYAGAIN
     fi
  :: OWNER(SLOT(r)) != NODE(n) && slot[SLOT(r)].to == NODE(n) && asked ->
     if
     :: (q[r].keys & moved) == q[r].keys || ONE_KEY(q[r].keys) -> reply = REPLY_OK
     :: else -> reply = REPLY_TRYAGAIN
     fi
  :: else ->
     /* An ASK that is followed while the slot moves leads to where it is served. */
     CHECK(5, P5_hops, !(q[r].asking && slot[SLOT(r)].to == NODE(n)));
     reply = REPLY_MOVED + OWNER(SLOT(r))
  fi;
  if :: reply == REPLY_OK -> Execute(r) :: else fi
}

/* The node reads the next command of backend b, with the ASKING before it. */
inline TakeFromWire(b) {
  asked_flag = (FRONT(k[b].sent) & ASKED) != 0;
  entry = REQUEST(FRONT(k[b].sent));
  POP(k[b].sent);
  PUSH(k[b].read, entry + 1);
  CHECK(6, P6_freed_once, IS_OUT(entry))
}

inline NodeReads(n, b) {
  TakeFromWire(b);
  zombie = 0;
  Answer(n, entry, asked_flag);
  PUSH(k[b].replies, reply)
}

inline NodeLies(n, to) {
  lies = lies - 1;
  TakeFromWire(USED(n));
  PUSH(k[USED(n)].replies, REPLY_MOVED + to)
}

inline NodeReadsClosing(n) {
  TakeFromWire(OLD(n));
  zombie = 1;
  Answer(n, entry, asked_flag)
}

inline NodeReadsLeftover(n) {
  asked_flag = (FRONT(unread[n].queue) & ASKED) != 0;
  entry = REQUEST(FRONT(unread[n].queue));
  POP(unread[n].queue);
  zombie = 1;
  Answer(n, entry, asked_flag)
}

/* --- the cluster and its topology */

#define MAY_MOVE(s) (moves > 0 && slot[s].to == NOBODY && slot[s].version < 2)
#define KEYS_OF(s) ((s) == 0 -> A + B : C)

inline NextOwner(s, n) { /* the second time on to another, or back */
  moves = moves - 1;
  if :: slot[s].version == 1 -> slot[s].second = n :: else fi
}
#define IS_OTHER(s, n) (slot[s].version == 0 -> (n) == (s) + 1 : (n) != (s) + 1)
#ifdef LEFTOVERS_OUTLAST_MOVES
#define MAY_OWN(s, n) IS_OTHER(s, n)
#else
/* A node gets a slot that it had after what lost connections left there is fenced off, or gone. */
#define NOTHING_LEFT(n) (!MAY_RUN_LATE(n) && !MAY_RUN_LATE(n + PAIRS - 3))
#define MAY_OWN(s, n) (IS_OTHER(s, n) && (old_connections[n] == 0 || NOTHING_LEFT(n)))
#endif

inline FinishMove(s) {
  slot[s].version = slot[s].version + 1;
  slot[s].to = NOBODY;
  moved = moved & ~KEYS_OF(s)
}

#define ANY_REFRESH (q[0].refresh || q[1].refresh || q[2].refresh || q[3].refresh || \
  q[4].refresh || q[5].refresh)
#define OUTDATED(s) (slot[s].known != slot[s].version)

/* Worker::AdoptCluster: BackendPool::Adopt, and what waits looks again. */
inline AdoptCluster() {
  node2_known = 1;
  for (i_adopt : 0 .. REQUESTS - 1) {
    if
    :: (q[i_adopt].redirected || q[i_adopt].seeking) && q[i_adopt].swaps < 2 ->
       q[i_adopt].swaps = q[i_adopt].swaps + 1
    :: else
    fi;
    if :: q[i_adopt].for_node -> q[i_adopt].for_node = 0; q[i_adopt].later = 0 :: else fi
  }
  RaiseRouteEpoch();
  WakeAllWaiting()
}

inline AnswerRefreshAsks() {
  for (i_adopt : 0 .. REQUESTS - 1) { q[i_adopt].refresh = 0 }
  WakeAllWaiting()
}

/* Begun after all asks, and it brings the truth. */
inline RefreshDone() {
  if
  :: OUTDATED(0) || OUTDATED(1) || !node2_known ->
     slot[0].known = slot[0].version;
     slot[1].known = slot[1].version;
     AdoptCluster()
  :: else
  fi;
  AnswerRefreshAsks()
}

#define LATER(r) (WAITS(r) && q[r].later && !q[r].for_node)

/* The backoff of a client's waiting requests is over, and their time if that was the last one. */
inline BackoffOver(c) {
  for (i_take : 3 * (c) .. 3 * (c) + 2) {
    if
    :: LATER(i_take) ->
       q[i_take].later = 0;
       if :: q[i_take].rounds > ROUNDS_MAX -> q[i_take].due = 1 :: else fi
    :: else
    fi
  }
  wake_wanted[c] = 1
}

inline NodeAvailable(n) {
  down[n] = 0;
  for (i_take : 0 .. REQUESTS - 1) {
    if :: q[i_take].for_node -> q[i_take].for_node = 0; q[i_take].later = 0 :: else fi
  }
  WakeAllWaiting()
}

#define HELD(r) (WAITS(r) && q[r].hold && !q[r].due)

inline Deadline(r) { q[r].due = 1; wake_wanted[CLIENT(r)] = 1 }

inline AllDeadlines() {
  /* With a healthy cluster nobody waits for the end of its time. */
  CHECK(4, P4_answered, hung[0] || hung[1] || hung[2]);
  for (i_take : 0 .. REQUESTS - 1) { if :: HELD(i_take) -> Deadline(i_take) :: else fi }
}

inline Pick(r, choices) {
  if
  :: (choices) & 1 -> q[r].keys = A
  :: (choices) & 2 -> q[r].keys = B
  :: (choices) & 4 -> q[r].keys = C
  :: (choices) & 8 -> q[r].keys = A + B
  fi;
  if
  :: !((choices) & 32) -> q[r].write = 1
  :: (choices) & 48 -> q[r].write = 0
  fi;
  if :: (choices) & 64 -> q[r].state = kFreed :: else fi; /* no such command */
  q[r].target = NOBODY;
  q[r].refused_by = NOBODY
}

/* For request r, one of: 1: A, 2: B, 4: C, 8: A and B; 16: or a read; 32: a read; 64: none. */
#ifndef PICK0
#define PICK0 1
#define PICK1 7
#define PICK2 1
#define PICK3 1
#define PICK4 4
#define PICK5 1
#endif

/* One step, and one step for any of … */
#define TELL(effect) printf("%d  ", chosen); printf(#effect); printf("\n")
#define EVENT(guard, effect) :: d_step { !broken && (guard) -> TELL(effect); effect; skip }
#define ONE_OF(choices, effect) \
  :: atomic { if choices fi; d_step { TELL(effect); effect; chosen = 0; skip } }
#define CHOICE(guard, number) :: !broken && (guard) -> chosen = number
#if LINES == 1
#define ANY_NODE(what) (what(0) || what(1) || what(2))
#define NODE_CHOICES(guard) CHOICE(guard(0), 0) CHOICE(guard(1), 1) CHOICE(guard(2), 2)
#else
#define ANY_NODE(what) (what(0) || what(1) || what(2) || what(3) || what(4) || what(5))
#define NODE_CHOICES(guard) \
  CHOICE(guard(0), 0) CHOICE(guard(1), 1) CHOICE(guard(2), 2) \
  CHOICE(guard(3), 3) CHOICE(guard(4), 4) CHOICE(guard(5), 5)
#endif
#define NODE_EVENT(guard, effect) ONE_OF(NODE_CHOICES(guard), effect)
#define CLIENT_EVENT(guard, effect) ONE_OF(CHOICE(guard(0), 0) CHOICE(guard(1), 1), effect)
#define REQUEST_EVENT(guard, effect) \
  ONE_OF(CHOICE(guard(0), 0) CHOICE(guard(1), 1) CHOICE(guard(2), 2) \
    CHOICE(guard(3), 3) CHOICE(guard(4), 4) CHOICE(guard(5), 5), effect)

#define IS_NEXT(r) (!gone[CLIENT(r)] && q[r].state == kNotTaken && \
  ((r) % PER_CLIENT == 0 || q[((r) + 5) % REQUESTS].state != kNotTaken))
#define WAKE_WANTED(c) (wake_wanted[c])
#define ANY_LATER(c) (LATER(3 * (c)) || LATER(3 * (c) + 1) || LATER(3 * (c) + 2))
#define HAS_NEWS(n) (k[USED(n)].state == kOpen && k[USED(n)].unsent != 0)
#define IS_CONNECTING(n) (k[USED(n)].state == kConnecting && !hung[NODE(n)])
#ifdef FENCE_STEPS
#define IS_IN_HANDSHAKE(n) (k[USED(n)].state == kHandshake && !hung[NODE(n)])
#define IS_KILLING(n) (k[USED(n)].state == kKilling && !hung[NODE(n)])
#else
#define IS_IN_HANDSHAKE(n) false
#define IS_KILLING(n) IS_CONNECTING(n)
#endif
#define NOT_OPEN(n) (k[USED(n)].state == kConnecting || k[USED(n)].state >= kHandshake)
#define HAS_INPUT(n) (k[USED(n)].state == kOpen && k[USED(n)].sent != 0 && !hung[NODE(n)])
#define HAS_REPLY(n) (k[USED(n)].replies != 0 && !HAS_STRAY(n))
/*
 * Bounds of what is looked at: a line to a node has one closing and one retired connection at a
 * time. None is lost while its place is taken, or that of one which is to be retired for it.
 */
#if SLOTS == 3
#define MAY_BE_RETIRED(n) \
  (k[USED(n)].state != kOpen || !PENDING(n) || k[RETIRED(n)].state == kFree)
#define IS_RETIRED(n) (k[RETIRED(n)].state == kRetired)
#define MAY_RETIRE(n) (retires > 0 && k[USED(n)].state == kOpen && MAY_BE_RETIRED(n))
#else
#define MAY_BE_RETIRED(n) true
#define IS_RETIRED(n) false
#endif
#define MAY_CLOSE(n) (k[OLD(n)].state == kFree && \
  (LINES == 1 || MAY_BE_RETIRED(((n) + 3) % PAIRS)))
#define MAY_FAIL(n) (k[USED(n)].state == kOpen && MAY_CLOSE(n))
#define RETIRED_HAS_INPUT(n) (IS_RETIRED(n) && k[RETIRED(n)].sent != 0 && !hung[NODE(n)])
#define RETIRED_HAS_REPLY(n) (IS_RETIRED(n) && k[RETIRED(n)].replies != 0)
#define RETIRED_MAY_BE_LOST(n) (IS_RETIRED(n) && MAY_CLOSE(n) && losses > 0)
#define RETIRED_MAY_TIME_OUT(n) \
  (IS_RETIRED(n) && MAY_CLOSE(n) && (losses > 0 || hung[NODE(n)]))
#define RETIRED_TIMES_OUT(n) (IS_RETIRED(n) && MAY_CLOSE(n) && hung[NODE(n)])
#define MUST_FENCE(n) \
  (n < 3 && old_connections[NODE(n)] != 0 && k[USED(n)].state == kFree && !down[NODE(n)])
#define MAY_BE_LOST(n) (MAY_FAIL(n) && losses > 0)
#define MAY_TIME_OUT(n) (MAY_FAIL(n) && PENDING(n) && (losses > 0 || hung[NODE(n)]))
#define MAY_NOT_CONNECT(n) (NOT_OPEN(n) && (losses > 0 || hung[NODE(n)]))
#define TIMES_OUT(n) (hung[NODE(n)] && ((MAY_FAIL(n) && PENDING(n)) || NOT_OPEN(n)))
#define CountLoss(n) if :: hung[NODE(n)] :: else -> losses = losses - 1 fi
#define HAS_OLD_INPUT(n) \
  (k[OLD(n)].state == kClosing && k[OLD(n)].sent != 0 && !k[OLD(n)].cut && \
   !hung[NODE(n)])
#define HAS_LEFTOVER(n) (unread[n].queue != 0 && !hung[NODE(n)])
#define LEFT_OVER(n) (unread[n].queue != 0)
#define COMES_BACK(n) (n < 3 && down[NODE(n)] && !hung[NODE(n)])
#define IS_CLOSING(n) (k[OLD(n)].state == kClosing)
#define MAY_STRAY(n) (strays > 0 && MAY_FAIL(n) && !PENDING(n))
#define TAKES_STRAY(n) (HAS_STRAY(n) && PENDING(n))
#define IS_LATE(n) (late[n])
#define MAY_LEAVE(c) (leavers > 0 && !gone[c])
#define MAY_LIE(n) (lies > 0 && HAS_INPUT(n))
#define MAY_HANG(n) (hangs > 0)
#define MAY_AGE(r) (ages > 0 && UNANSWERED(r) && q[r].ask && !q[r].stale)

/* All of `sent`, or a beginning of it, was handed over. */
#define HANDED(number) \
  :: LENGTH(k[OLD(chosen)].sent) >= number -> k[OLD(chosen)].handed = number

/* Backend::TakeReplies, with an empty pending ring */
inline OnStray(n) {
#ifdef NO_CLOSE_ON_STRAY
  stray[n] = 1
#else
  Fail(n, USED(n), 1)
#endif
}

/* Worker::Handle: Find, which compares generations */
inline LateCompletion(n) {
  late[n] = 0;
#ifdef NO_GENERATION_CHECK
  CHECK(1, P1_isolation, !PENDING(n))
#endif
}

#define MOVE_TO(s, n) \
  EVENT(MOVE_AT_ONCE != 1 && MAY_MOVE(s) && MAY_OWN(s, n), NextOwner(s, n); slot[s].to = n) \
  EVENT(MOVE_AT_ONCE != 0 && MAY_MOVE(s) && MAY_OWN(s, n), NextOwner(s, n); FinishMove(s))

#define MOVE_KEY(s, key) \
  EVENT(slot[s].to != NOBODY && (moved & key) == 0, moved = moved | key)

#define LIE(to) NODE_EVENT(MAY_LIE, NodeLies(chosen, to))

#define ANY_CLIENT(what) (what(0) || what(1))
#define ANY_REQUEST(what) (ANY_OF(what, 0) || ANY_OF(what, 1))
#define ANY_OF(what, c) (what(3 * c) || what(3 * c + 1) || what(3 * c + 2))
/* Nothing can happen but what need not: faults, and moves of slots. */
#define QUIET \
  !(ANY_CLIENT(WAKE_WANTED) || ANY_NODE(HAS_NEWS) || ANY_NODE(HAS_INPUT) || ANY_NODE(HAS_REPLY) || \
    ANY_NODE(IS_CONNECTING) || ANY_NODE(IS_IN_HANDSHAKE) || ANY_NODE(IS_KILLING) || \
    ANY_REQUEST(IS_NEXT) || ANY_CLIENT(ANY_LATER) || ANY_REFRESH || \
    ANY_NODE(COMES_BACK) || ANY_NODE(TAKES_STRAY) || ANY_NODE(IS_CLOSING) || \
    ANY_NODE(TIMES_OUT) || ANY_NODE(MUST_FENCE) || ANY_NODE(RETIRED_HAS_INPUT) || \
    ANY_NODE(RETIRED_HAS_REPLY) || ANY_NODE(RETIRED_TIMES_OUT))
#define IS_FREED(r) (q[r].state == kFreed)
#define ALL_FREED (IS_FREED(0) && IS_FREED(1) && IS_FREED(2) && IS_FREED(3) && IS_FREED(4) && \
  IS_FREED(5))

init {
  d_step {
    slot[0].second = NOBODY; slot[0].to = NOBODY; slot[1].second = NOBODY; slot[1].to = NOBODY;
    node2_known = NODE2_KNOWN;
    moves = MOVES; lies = LIES; refreshes = REFRESHES; old_views = OLD_VIEWS; losses = LOSSES;
    hangs = HANGS; leavers = GONE; strays = STRAYS; ages = AGES;
    retires = RETIRES
  }
  Pick(0, PICK0);
  Pick(1, PICK1);
  Pick(2, PICK2);
  Pick(3, PICK3);
  Pick(4, PICK4);
  Pick(5, PICK5);
  do
  REQUEST_EVENT(IS_NEXT, Start(chosen))
  CLIENT_EVENT(WAKE_WANTED, Wake(chosen))
  CLIENT_EVENT(ANY_LATER, BackoffOver(chosen))
#ifdef FENCE_STEPS
  NODE_EVENT(IS_CONNECTING, SendHandshake(chosen))
  NODE_EVENT(IS_IN_HANDSHAKE, SendKill(chosen))
#endif
  NODE_EVENT(IS_KILLING, FinishHandshake(chosen); ForgetAll())
  NODE_EVENT(HAS_NEWS, Flush(chosen))
  NODE_EVENT(HAS_INPUT, NodeReads(chosen, USED(chosen)))
  NODE_EVENT(HAS_REPLY, TakeReply(chosen, USED(chosen)))
#if LOSSES || HANGS
  NODE_EVENT(MAY_BE_LOST, losses = losses - 1; Fail(chosen, USED(chosen), 0))
  NODE_EVENT(MAY_TIME_OUT,
    CountLoss(chosen); Fail(chosen, USED(chosen), 0); down[NODE(chosen)] = 1)
  NODE_EVENT(MAY_NOT_CONNECT, CountLoss(chosen); FailToConnect(chosen))
  NODE_EVENT(HAS_OLD_INPUT, NodeReadsClosing(chosen); ForgetAll())
  NODE_EVENT(HAS_LEFTOVER, NodeReadsLeftover(chosen); ForgetAll())
  NODE_EVENT(LEFT_OVER, unread[chosen].queue = 0; ForgetAll())
  NODE_EVENT(COMES_BACK, NodeAvailable(chosen))
  NODE_EVENT(MUST_FENCE, ConnectToFence(chosen))
#endif
#if SLOTS == 3
#if RETIRES
  NODE_EVENT(MAY_RETIRE, retires = retires - 1; Retire(chosen))
#endif
  NODE_EVENT(RETIRED_HAS_INPUT, NodeReads(chosen, RETIRED(chosen)))
  NODE_EVENT(RETIRED_HAS_REPLY, TakeReply(chosen, RETIRED(chosen)))
  NODE_EVENT(RETIRED_MAY_BE_LOST, losses = losses - 1; Fail(chosen, RETIRED(chosen), 0))
  NODE_EVENT(RETIRED_MAY_TIME_OUT,
    CountLoss(chosen); Fail(chosen, RETIRED(chosen), 0); down[NODE(chosen)] = 1)
#endif
#if LOSSES || HANGS || STRAYS
  :: atomic {
       if NODE_CHOICES(IS_CLOSING) fi;
       if
       HANDED(0)
       HANDED(1)
       HANDED(2)
       HANDED(3)
       HANDED(4)
       HANDED(5)
       HANDED(6)
       fi;
       d_step { TELL(Settle(chosen)); Settle(chosen); ForgetAll(); chosen = 0; skip }
     }
#endif
#if STRAYS
  NODE_EVENT(MAY_STRAY, strays = strays - 1; OnStray(chosen))
  NODE_EVENT(TAKES_STRAY, CHECK(1, P1_isolation, false))
#endif
#if LATE
  NODE_EVENT(IS_LATE, LateCompletion(chosen))
#endif
#if HANGS
  NODE_EVENT(MAY_HANG, hangs = 0; hung[chosen] = 1)
#endif
#if LIES
  LIE(0)
  LIE(1)
  LIE(2)
  LIE(3)
#endif
#if GONE
  CLIENT_EVENT(MAY_LEAVE, leavers = leavers - 1; DropRequests(chosen))
#endif
#if MOVES
  MOVE_TO(0, 0)
  MOVE_TO(0, 1)
  MOVE_TO(0, 2)
  MOVE_TO(1, 0)
  MOVE_TO(1, 1)
  MOVE_TO(1, 2)
#if MOVE_AT_ONCE != 1
  MOVE_KEY(0, A)
  MOVE_KEY(0, B)
  MOVE_KEY(1, C)
  EVENT(slot[0].to != NOBODY && (moved & (A + B)) == A + B, FinishMove(0))
  EVENT(slot[1].to != NOBODY && (moved & C) == C, FinishMove(1))
  EVENT(slot[0].to != NOBODY && (moved & (A + B)) == 0, slot[0].to = NOBODY) /* given up */
#endif
#endif
  EVENT(ANY_REFRESH, RefreshDone())
  EVENT(old_views > 0 && ANY_REFRESH, old_views = old_views - 1; AnswerRefreshAsks())
  EVENT(refreshes > 0 && (OUTDATED(0) || OUTDATED(1) || !node2_known),
    refreshes = refreshes - 1; RefreshDone())
  /* Begun before the asks, perhaps before the last change. */
  EVENT(refreshes > 0 && (OUTDATED(0) || OUTDATED(1)),
    refreshes = refreshes - 1;
    if :: OUTDATED(0) -> slot[0].known = slot[0].known + 1 :: else fi;
    if :: OUTDATED(1) -> slot[1].known = slot[1].known + 1 :: else fi;
    AdoptCluster())
#if AGES
  REQUEST_EVENT(MAY_AGE, ages = 0; q[chosen].stale = 1)
#endif
#if EARLY_DEADLINES
  REQUEST_EVENT(HELD, Deadline(chosen))
#endif
  EVENT(ANY_REQUEST(HELD) && QUIET, AllDeadlines())
  EVENT(!ANY_REQUEST(HELD) && QUIET && !ALL_FREED, CHECK(4, P4_answered, false))
  :: broken || (ALL_FREED && QUIET) -> break
  od
}
