//! Good tokens that a worker remembers, so that their signatures are checked once.

use super::token::Token;
use crate::model::JwtAuthn;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Weak};

thread_local! {
    static KNOWN: RefCell<HashMap<(u64, usize), Known>> = RefCell::default();
}

/// Those of one provider.
struct Known {
    /// Whose rule it is of; gone, its tokens are forgotten.
    alive: Weak<()>,
    tokens: HashMap<Rc<str>, Rc<Token>>,
    /// In the order they came: the oldest makes place.
    order: VecDeque<Rc<str>>,
}

/// This worker's memory for one rule.
pub(super) struct Cache<'a> {
    /// The rule's number.
    pub checker: u64,
    pub alive: &'a Arc<()>,
    pub config: &'a JwtAuthn,
}

impl Cache<'_> {
    /// `None`: this provider's tokens are not remembered.
    pub(super) fn get(&self, provider: usize, text: &str) -> Option<Option<Rc<Token>>> {
        self.config.providers.get(provider)?.cache?;
        Some(KNOWN.with_borrow(|all| all.get(&(self.checker, provider))?.tokens.get(text).cloned()))
    }

    /// Remembers a good token.
    pub(super) fn put(&self, provider: usize, text: String, token: Rc<Token>) {
        let limits = self.config.providers.get(provider).and_then(|provider| provider.cache);
        let Some(limits) = limits.filter(|limits| text.len() <= limits.longest) else { return };
        KNOWN.with_borrow_mut(|all| {
            if !all.contains_key(&(self.checker, provider)) {
                all.retain(|_, known| known.alive.strong_count() > 0);
            }
            let known = all.entry((self.checker, provider)).or_insert_with(|| Known {
                alive: Arc::downgrade(self.alive),
                tokens: HashMap::new(),
                order: VecDeque::new(),
            });
            let text: Rc<str> = text.into();
            if known.tokens.insert(text.clone(), token).is_some() {
                return;
            }
            known.order.push_back(text);
            while known.order.len() > limits.size {
                if let Some(oldest) = known.order.pop_front() {
                    known.tokens.remove(&oldest);
                }
            }
        });
    }
}
