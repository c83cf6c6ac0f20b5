//! A group of runs: their pairs with rows due, and whose batch comes next. A group of one is a group.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    PurgeError,
    batch_size::BatchSize,
    datasets::{DATASETS, Scope},
    member::{EndedRun, Member, Sweep},
};
use crate::{
    ids::RunId,
    runs::{RowCursor, ThrottleReason},
};

/// A pair of a run and one of its datasets with rows due, by their indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) member: usize,
    pub(super) dataset: usize,
}

/// Runs that share their transactions.
#[derive(Debug)]
pub struct Group {
    /// The runs, by index. A run that has ended leaves its entry empty.
    pub(super) members: Vec<Option<Member>>,
    /// The pairs with rows due, in the order in which their next batches come.
    pub(super) pairs: VecDeque<Pair>,
    /// Pairs until each has had a batch since the runs were last verified.
    pub(super) left_in_cycle: usize,
    /// Whether the pairs are known. Until then nothing is verified.
    pub(super) is_inspected: bool,
    /// Whether a batch was committed without waiting for the disk, and nothing has waited since.
    pub(super) is_unflushed: bool,
    pub(super) size: BatchSize,
}

impl Group {
    /// A group whose pairs are not known yet.
    #[must_use]
    pub fn new(members: Vec<Member>, batch_size: Option<u32>) -> Self {
        Self {
            members: members.into_iter().map(Some).collect(),
            pairs: VecDeque::new(),
            left_in_cycle: 0,
            is_inspected: false,
            is_unflushed: false,
            size: BatchSize::new(batch_size),
        }
    }

    /// Whether every run has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    /// Whether every pair has had a batch: then the runs without pairs are to be verified.
    #[must_use]
    pub fn is_cycle_over(&self) -> bool {
        self.left_in_cycle == 0
    }

    /// Begins another cycle.
    pub(super) fn begin_cycle(&mut self) {
        self.left_in_cycle = self.pairs.len();
    }

    /// The runs at work.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten()
    }

    /// Whether somebody waits for every one of the runs.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.members().all(|member| member.run.is_urgent)
    }

    /// Whether somebody waits for the run whose batch comes next.
    #[must_use]
    pub fn is_front_urgent(&self) -> bool {
        let front = self.pairs.front();
        let member = front.and_then(|pair| self.members[pair.member].as_ref());
        member.is_some_and(|member| member.run.is_urgent)
    }

    /// Notes a wait before the first batch.
    pub fn note_wait(&mut self, throttled: Option<(ThrottleReason, Duration)>) {
        let first = self.members.iter_mut().flatten().next();
        if let Some(sweep) = first.and_then(|member| member.sweeps.first_mut()) {
            sweep.note_wait(throttled);
        }
    }

    /// The pairs of runs that somebody waits for come first.
    pub(super) fn urgent_first(&mut self) {
        let members = &self.members;
        let is_urgent = |pair: &Pair| {
            let member = members[pair.member].as_ref();
            member.is_some_and(|member| member.run.is_urgent)
        };
        self.pairs
            .make_contiguous()
            .sort_by_key(|pair| !is_urgent(pair));
    }

    /// Brings a pair to the front that may have its batch now. If there is none: when the first of them may.
    pub fn wait_until(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut first: Option<Instant> = None;
        for index in 0..self.pairs.len() {
            let at = self.ready_at(self.pairs[index]);
            if at <= now {
                if let Some(pair) = self.pairs.remove(index) {
                    self.pairs.push_front(pair);
                }
                return None;
            }
            first = Some(first.map_or(at, |first| first.min(at)));
        }
        first
    }

    /// When the next batch of a pair may begin.
    fn ready_at(&self, pair: Pair) -> Instant {
        let member = self.members[pair.member].as_ref();
        member.map_or_else(Instant::now, |member| member.next_try_at)
    }

    /// The runs with rows left that another worker may go on with.
    fn movable(&self) -> Vec<RunId> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(index, _)| self.pairs.iter().any(|pair| pair.member == *index))
            .filter_map(|(_, member)| member.as_ref().filter(|member| member.can_move()))
            .map(|member| member.run.id)
            .collect()
    }

    /// Takes out runs for other workers: the later half of those that can go on elsewhere.
    pub fn take_half(&mut self) -> Vec<Member> {
        let movable = self.movable();
        let kept = movable.len().div_ceil(2);
        self.take(|member| movable[kept..].contains(&member.run.id))
    }

    /// Takes out the runs that `which` chooses and that can go on elsewhere.
    pub fn take_movable(&mut self, which: impl Fn(&Member) -> bool) -> Vec<Member> {
        let movable = self.movable();
        self.take(|member| movable.contains(&member.run.id) && which(member))
    }

    /// Takes out the runs that `which` chooses.
    pub fn take(&mut self, which: impl Fn(&Member) -> bool) -> Vec<Member> {
        let indexes = (0..self.members.len()).filter(|index| {
            let member = self.members[*index].as_ref();
            member.is_some_and(&which)
        });
        let indexes: Vec<_> = indexes.collect();
        indexes
            .into_iter()
            .filter_map(|index| self.remove(index))
            .collect()
    }

    /// Takes out one run with its pairs.
    pub(super) fn remove(&mut self, index: usize) -> Option<Member> {
        self.drop_pairs(|pair| pair.member == index);
        self.members[index].take()
    }

    /// Drops pairs, wherever they stand.
    pub(super) fn drop_pairs(&mut self, which: impl Fn(Pair) -> bool) {
        let ahead = self.pairs.iter().take(self.left_in_cycle);
        let dropped_ahead = ahead.filter(|pair| which(**pair)).count();
        self.left_in_cycle -= dropped_ahead;
        self.pairs.retain(|pair| !which(*pair));
    }

    /// The sweep of a pair.
    pub(super) fn sweep_mut(&mut self, pair: Pair) -> Option<&mut Sweep> {
        let member = self.members[pair.member].as_mut()?;
        Some(&mut member.sweeps[pair.dataset])
    }

    /// The indexes of the runs without pairs.
    pub(super) fn without_pairs(&self) -> Vec<usize> {
        (0..self.members.len())
            .filter(|index| self.members[*index].is_some())
            .filter(|index| !self.pairs.iter().any(|pair| pair.member == *index))
            .collect()
    }

    /// The pairs of the next transaction: from the front, as many as may share a transaction.
    pub(super) fn next_pairs(&self) -> Vec<Pair> {
        let now = Instant::now();
        let is_ready = |pair: &Pair| self.ready_at(*pair) <= now;
        let is_alone = |pair: &Pair| {
            let member = self.members[pair.member].as_ref();
            member.is_some_and(|member| member.sweeps[pair.dataset].is_alone)
        };
        // Runs that somebody waits for do not share a transaction with the others.
        let is_urgent = |pair: &Pair| {
            let member = self.members[pair.member].as_ref();
            member.is_some_and(|member| member.run.is_urgent) == self.is_front_urgent()
        };
        let in_cycle = self.pairs.iter().take(self.left_in_cycle.max(1)).copied();
        let mut pairs: Vec<_> = in_cycle
            .take_while(|pair| is_ready(pair) && is_urgent(pair))
            .collect();
        let shared = pairs.iter().position(is_alone).unwrap_or(pairs.len());
        pairs.truncate(shared.max(1));
        pairs
    }

    /// Takes the first pair.
    pub(super) fn pop(&mut self) -> Option<Pair> {
        self.left_in_cycle = self.left_in_cycle.saturating_sub(1);
        self.pairs.pop_front()
    }

    /// Gives the culprit a transaction of its own; if it is unknown, each of the first pairs.
    pub(super) fn separate(&mut self, pairs: usize, culprit: Option<Pair>) {
        let first: Vec<_> = self.pairs.iter().take(pairs).copied().collect();
        for pair in culprit.map_or(first, |pair| vec![pair]) {
            if let Some(sweep) = self.sweep_mut(pair) {
                sweep.is_alone = true;
            }
        }
    }

    pub(super) fn end(&mut self, index: usize, error: PurgeError) -> Option<EndedRun> {
        let member = self.remove(index)?;
        Some(EndedRun {
            member,
            result: Err(error),
        })
    }

    pub(super) fn end_all(&mut self, error: impl Fn() -> PurgeError) -> Vec<EndedRun> {
        let indexes = 0..self.members.len();
        indexes
            .filter_map(|index| self.end(index, error()))
            .collect()
    }

    pub(super) fn scope(&self, pair: Pair) -> Option<Scope> {
        let member = self.members[pair.member].as_ref()?;
        member.scope(DATASETS[pair.dataset])
    }

    pub(super) fn cursor(&self, pair: Pair) -> Option<&RowCursor> {
        let member = self.members[pair.member].as_ref()?;
        member.sweeps[pair.dataset].cursor.as_ref()
    }

    /// Opens the spans of the pairs that may have a batch now.
    pub(super) fn open_spans(&mut self) {
        for pair in self.next_pairs() {
            if let Some(member) = self.members[pair.member].as_mut() {
                member.open_span(pair.dataset);
            }
        }
    }
}
