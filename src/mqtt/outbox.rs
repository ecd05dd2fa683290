//! What is to be sent, in order, one message at a time: the next goes when the broker has acknowledged the last.

use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub topic: String,
    pub payload: String,
    /// All but events are kept by the broker for whoever comes later.
    pub retain: bool,
}

pub(super) struct Outbox {
    /// What is said first on each connection.
    greeting: VecDeque<Message>,
    /// The newest state, if the broker has yet to get it.
    state: Option<Message>,
    events: VecDeque<Message>,
    /// So many events are kept.
    limit: usize,
    sent: Option<Message>,
}

impl Outbox {
    pub(super) fn new(limit: usize) -> Outbox {
        Outbox { greeting: VecDeque::new(), state: None, events: VecDeque::new(), limit, sent: None }
    }

    /// False when the oldest event had to go for it.
    pub(super) fn add_event(&mut self, event: Message) -> bool {
        self.events.push_back(event);
        let full = self.events.len() > self.limit;
        if full {
            self.events.pop_front();
        }
        !full
    }

    pub(super) fn set_state(&mut self, state: Message) {
        self.state = Some(state);
    }

    pub(super) fn greet(&mut self, greeting: Vec<Message>) {
        self.greeting = greeting.into();
    }

    /// What is to be sent now; nothing while an acknowledgement is waited for.
    pub(super) fn next(&mut self) -> Option<Message> {
        if self.sent.is_some() {
            return None;
        }
        self.sent = self.greeting.pop_front().or_else(|| self.state.take()).or_else(|| self.events.pop_front());
        self.sent.clone()
    }

    pub(super) fn acknowledged(&mut self) -> Option<Message> {
        self.sent.take()
    }

    /// The connection is gone: an event that was not acknowledged is sent again on the next one.
    pub(super) fn lost(&mut self) {
        if let Some(event) = self.sent.take().filter(|message| !message.retain) {
            self.events.push_front(event);
        }
        self.greeting.clear();
    }

    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_none() && self.greeting.is_empty() && self.state.is_none() && self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str, retain: bool) -> Message {
        Message { topic: "t".into(), payload: payload.into(), retain }
    }

    fn sent(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| {
            let next = outbox.next()?;
            outbox.acknowledged();
            Some(next.payload)
        })
        .collect()
    }

    #[test]
    fn one_after_another_greeting_and_state_before_events() {
        let mut outbox = Outbox::new(10);
        assert!(outbox.add_event(message("event", false)));
        outbox.set_state(message("old state", true));
        outbox.set_state(message("state", true));
        outbox.greet(vec![message("hello", true), message("online", true)]);
        assert_eq!(outbox.next().unwrap().payload, "hello");
        assert_eq!(outbox.next(), None, "the first is not acknowledged");
        outbox.acknowledged();
        assert_eq!(sent(&mut outbox), ["online", "state", "event"]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_oldest_events_go_first_and_what_was_not_acknowledged_is_sent_again() {
        let mut outbox = Outbox::new(3);
        for payload in ["1", "2", "3"] {
            assert!(outbox.add_event(message(payload, false)));
        }
        outbox.next();
        outbox.lost();
        assert_eq!(outbox.events(), 3);
        assert!(!outbox.add_event(message("4", false)));
        assert_eq!(sent(&mut outbox), ["2", "3", "4"]);
    }

    #[test]
    fn the_memory_of_a_broker_that_acknowledges_nothing_is_bounded() {
        let mut outbox = Outbox::new(3);
        for _ in 0..10_000 {
            outbox.add_event(message("x", false));
            outbox.next();
            outbox.lost();
        }
        assert!(outbox.events() <= 4);
    }
}
