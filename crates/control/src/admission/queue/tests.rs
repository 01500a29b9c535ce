//! The queue alone, then against a model of a host with random arrivals.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn queue(memory: u64, starts: usize) -> Queue {
    Queue::new(Bounds { memory, starts })
}

fn start(id: &str) -> Action {
    Action::Start(id.to_owned())
}

fn suspend(id: &str) -> Action {
    Action::Suspend(id.to_owned())
}

fn nobody(_: &str) -> Option<Duration> {
    None
}

#[test]
fn starts_are_bounded_and_in_order() {
    let mut queue = queue(100, 2);
    for id in ["a", "b", "c"] {
        queue.request(id, 10);
    }
    queue.request("a", 10);
    assert_eq!(queue.plan(SECOND, nobody), [start("a"), start("b")]);
    assert_eq!(queue.plan(SECOND, nobody), []);
    queue.started("b");
    assert_eq!(queue.plan(SECOND, nobody), [start("c")]);
    queue.gone("a");
    queue.request("a", 10);
    assert_eq!(queue.plan(SECOND, nobody), [start("a")]);
}

#[test]
fn the_longest_idle_goes_first_and_nobody_overtakes() {
    let mut queue = queue(30, 4);
    for id in ["a", "b", "c"] {
        queue.adopt(id, 10);
    }
    queue.request("large", 20);
    queue.request("small", 1);
    let idle = |id: &str| match id {
        "a" => Some(SECOND),
        "b" => Some(3 * SECOND),
        _ => None,
    };
    assert_eq!(queue.plan(SECOND, idle), [suspend("b"), suspend("a")]);
    queue.gone("b");
    assert_eq!(queue.plan(SECOND, idle), [], "the small one has to wait for the large one");
    queue.gone("a");
    assert_eq!(queue.plan(SECOND, idle), [start("large")]);
    queue.gone("c");
    assert_eq!(queue.plan(SECOND, idle), [start("small")]);
}

#[test]
fn one_that_is_kept_is_left_alone_for_a_while() {
    let mut queue = queue(10, 2);
    queue.adopt("a", 10);
    queue.request("b", 10);
    let idle = |_: &str| Some(SECOND);
    assert_eq!(queue.plan(SECOND, idle), [suspend("a")]);
    queue.kept("a", 3 * SECOND);
    assert_eq!(queue.plan(2 * SECOND, idle), []);
    assert_eq!(queue.plan(3 * SECOND, idle), [suspend("a")]);
}

#[test]
fn one_too_large_for_the_host_runs_alone() {
    let mut queue = queue(10, 2);
    queue.adopt("a", 1);
    queue.request("large", 50);
    queue.request("b", 1);
    assert_eq!(queue.plan(SECOND, |_| Some(SECOND)), [suspend("a")]);
    queue.gone("a");
    assert_eq!(queue.plan(SECOND, nobody), [start("large")]);
    queue.started("large");
    assert_eq!(queue.plan(SECOND, |_| Some(SECOND)), [suspend("large")]);
    queue.gone("large");
    assert_eq!(queue.plan(SECOND, nobody), [start("b")]);
}

#[test]
fn who_gives_up_frees_the_way() {
    let mut queue = queue(10, 1);
    queue.adopt("a", 10);
    queue.request("b", 10);
    queue.request("c", 10);
    queue.withdraw("b");
    queue.gone("a");
    assert_eq!(queue.plan(SECOND, nobody), [start("c")]);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn a_host_with_less_memory_sheds_what_is_idle() {
    let mut queue = queue(30, 4);
    for id in ["a", "b", "c"] {
        queue.adopt(id, 10);
    }
    queue.set_bounds(Bounds { memory: 15, starts: 4 });
    let idle = |id: &str| (id != "c").then_some(SECOND);
    let actions = queue.plan(SECOND, idle);
    assert_eq!(actions.len(), 2);
    assert!(!actions.contains(&suspend("c")));
}

/// Small, seeded and good enough to shuffle with (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A host as the queue sees it: what starts or stops takes some steps, clients come and go.
struct Host {
    queue: Queue,
    dice: Dice,
    costs: Vec<u64>,
    /// Steps until a start or stop is over.
    moving: BTreeMap<String, (u64, bool)>,
    /// Awake, with the steps for which it is in use.
    busy: BTreeMap<String, u64>,
    /// In the order in which they asked.
    asked: VecDeque<String>,
    now: Duration,
}

impl Host {
    fn new(seed: u64) -> Host {
        let mut dice = Dice(seed);
        let bounds = Bounds { memory: 20 + dice.roll(60), starts: 1 + dice.roll(4) as usize };
        let costs = (0..40).map(|_| 1 + dice.roll(25)).collect();
        Host {
            queue: Queue::new(bounds),
            dice,
            costs,
            moving: BTreeMap::new(),
            busy: BTreeMap::new(),
            asked: VecDeque::new(),
            now: SECOND,
        }
    }

    fn arrive(&mut self) {
        let place = self.dice.roll(self.costs.len() as u64) as usize;
        let id = format!("c{place:02}");
        if let Some(busy) = self.busy.get_mut(&id) {
            *busy = 3;
        } else if !self.moving.contains_key(&id) && !self.asked.contains(&id) {
            self.queue.request(&id, self.costs[place]);
            self.asked.push_back(id);
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(100);
        for (id, (steps, up)) in std::mem::take(&mut self.moving) {
            if steps > 0 {
                self.moving.insert(id, (steps - 1, up));
            } else if !up {
                self.queue.gone(&id);
            } else if self.dice.roll(20) == 0 {
                // It does not start.
                self.queue.gone(&id);
            } else {
                self.queue.started(&id);
                self.busy.insert(id, self.dice.roll(10));
            }
        }
        for busy in self.busy.values_mut() {
            *busy = busy.saturating_sub(1);
        }
        let busy = self.busy.clone();
        let idle = |id: &str| busy.get(id).filter(|busy| **busy == 0).map(|_| SECOND);
        for action in self.queue.plan(self.now, idle) {
            self.act(action);
        }
        self.check();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(id) => {
                assert_eq!(self.asked.pop_front().as_deref(), Some(id.as_str()), "somebody was overtaken");
                assert!(!self.busy.contains_key(&id) && !self.moving.contains_key(&id));
                self.moving.insert(id, (self.dice.roll(5), true));
            }
            Action::Suspend(id) if self.dice.roll(10) == 0 => {
                self.queue.kept(&id, self.now + SECOND);
            }
            Action::Suspend(id) => {
                assert_eq!(self.busy.remove(&id), Some(0), "{id} was in use");
                self.moving.insert(id, (self.dice.roll(3), false));
            }
        }
    }

    fn check(&self) {
        let bounds = self.queue.bounds();
        let starting = self.moving.values().filter(|(_, up)| *up).count();
        assert!(starting <= bounds.starts, "{starting} start at once");
        let used: u64 = self.busy.keys().chain(self.moving.keys()).map(|id| self.cost(id)).sum();
        let alone = self.busy.len() + self.moving.len() <= 1;
        assert!(used <= bounds.memory || alone, "{used} of {} bytes", bounds.memory);
        assert_eq!(self.queue.used(), used);
    }

    fn cost(&self, id: &str) -> u64 {
        self.costs[id[1..].parse::<usize>().unwrap()]
    }
}

#[test]
fn random_arrivals_stay_within_bounds_and_all_get_their_turn() {
    for seed in 0..400 {
        let mut host = Host::new(seed);
        for _ in 0..300 {
            if host.dice.roll(2) == 0 {
                host.arrive();
            }
            if host.dice.roll(30) == 0
                && let Some(id) = host.asked.pop_back()
            {
                host.queue.withdraw(&id);
            }
            host.step();
        }
        // Nobody new: those that wait must all be served.
        for _ in 0..2_000 {
            if host.asked.is_empty() {
                break;
            }
            host.step();
        }
        assert!(host.asked.is_empty(), "seed {seed}: {:?} never got a turn", host.asked);
    }
}
