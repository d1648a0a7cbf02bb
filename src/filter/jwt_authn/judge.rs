//! What is required of a request, held against its tokens.

use super::keys::Keys;
use super::places::{self, Found, Place};
use super::refusal::Refusal;
use super::remote::{Held, Known, Remote};
use super::token::Token;
use crate::message::Request;
use crate::model::{JwtAuthn, JwtProvider, JwtRequirement};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where keys are.
pub(super) enum Source {
    /// `None`: the text has none that can be used.
    Local(Option<Keys>),
    Remote(Arc<Remote>),
}

/// A good token.
pub(super) struct Good {
    pub provider: usize,
    pub token: Rc<Token>,
    pub place: Place,
}

/// Why there is no verdict.
pub(super) enum Stop {
    Refused(Refusal),
    /// Keys of this provider must come first.
    Keys(usize),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

/// One request before its judge.
pub(super) struct Judge<'a> {
    pub config: &'a JwtAuthn,
    pub sources: &'a [Source],
    pub request: &'a dyn Request,
    /// Since 1970.
    pub now: Duration,
    /// Fetches that had ended when the request began to wait, by provider.
    pub waited: &'a [(usize, u64)],
    /// Tokens that were good before: by provider and text.
    pub remembered: &'a dyn Fn(usize, &str) -> Option<Rc<Token>>,
    /// What is to be remembered.
    pub good: Vec<Good>,
    /// Good tokens that nobody remembered, with their texts.
    pub new: Vec<(usize, String, Rc<Token>)>,
    /// Providers whose tokens were refused, and why.
    pub refused: Vec<(usize, Refusal)>,
}

impl Judge<'_> {
    /// Whether the request has what is required of it.
    pub(super) fn judge(&mut self, required: &JwtRequirement) -> Result<(), Stop> {
        match required {
            JwtRequirement::Nothing => Ok(()),
            JwtRequirement::Provider(provider, audiences) => self.provider(*provider, audiences),
            JwtRequirement::All(all) => all.iter().try_for_each(|one| self.judge(one)),
            JwtRequirement::Any(any) => self.any(any),
            JwtRequirement::AllowMissing => self.anybody(false),
            JwtRequirement::AllowMissingOrFailed => self.anybody(true),
        }
    }

    /// What fails tells more than what is missing.
    fn any(&mut self, any: &[JwtRequirement]) -> Result<(), Stop> {
        let free = |one: &&JwtRequirement| {
            matches!(one, JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed)
        };
        let failing = any.contains(&JwtRequirement::AllowMissingOrFailed);
        let mut last = Refusal::Missing;
        let mut asked = false;
        for one in any.iter().filter(|one| !free(one)) {
            asked = true;
            match self.judge(one) {
                Ok(()) => return Ok(()),
                Err(Stop::Refused(refusal)) => {
                    let weak = matches!(refusal, Refusal::Missing | Refusal::UnknownIssuer);
                    if !weak || last == Refusal::Missing {
                        last = refusal;
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
        let missing = any.contains(&JwtRequirement::AllowMissing);
        match last {
            _ if !asked => self.anybody(failing),
            _ if failing => Ok(()),
            Refusal::Missing if missing => Ok(()),
            refusal => Err(refusal.into()),
        }
    }

    /// All tokens in the provider's places, of which there is one at least, are good ones of its own.
    fn provider(&mut self, number: usize, audiences: &[String]) -> Result<(), Stop> {
        let tokens = places::find(self.request, &self.config.providers, &[number]);
        let outcome = match tokens.is_empty() {
            true => Err(Refusal::Missing.into()),
            false => {
                let before = self.good.len();
                let all = tokens.into_iter().try_for_each(|found| self.token(found, Some(number), audiences));
                if all.is_err() {
                    self.good.truncate(before);
                }
                all
            }
        };
        if let Err(Stop::Refused(refusal)) = &outcome {
            self.refused.push((number, *refusal));
        }
        outcome
    }

    /// Whatever tokens there are, each is a good one of some provider; or bad ones do not count.
    fn anybody(&mut self, failing: bool) -> Result<(), Stop> {
        let all: Vec<usize> = (0..self.config.providers.len()).collect();
        for found in places::find(self.request, &self.config.providers, &all) {
            match self.token(found, None, &[]) {
                Err(Stop::Refused(_)) if failing => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// One token, of this provider or of the one its issuer is.
    fn token(&mut self, found: Found, of: Option<usize>, audiences: &[String]) -> Result<(), Stop> {
        let Found { text, place, providers } = found;
        let known = of.and_then(|number| (self.remembered)(number, &text));
        let remembered = known.is_some();
        let token = match known {
            Some(token) => token,
            None => Rc::new(Token::parse(&text)?),
        };
        let issues = |number: &usize| self.issuer(*number).is_some_and(|own| own == token.issuer);
        let anybody = |number: &usize| self.issuer(*number) == Some("");
        // A place is for tokens of those who have theirs there.
        if !providers.iter().any(|number| issues(number) || anybody(number)) {
            return Err(Refusal::UnknownIssuer.into());
        }
        let all = 0..self.config.providers.len();
        let number = of.or_else(|| all.clone().find(issues)).or_else(|| all.clone().find(anybody));
        let provider = number.and_then(|number| Some((number, self.config.providers.get(number)?)));
        let (number, provider): (usize, &JwtProvider) = provider.ok_or(Refusal::UnknownIssuer)?;
        token.check(provider, audiences, self.now)?;
        if !remembered {
            self.signed(number, &token)?;
            self.new.push((number, text, token.clone()));
        }
        // Of two branches that accept the same, one says what the token says.
        let same =
            |good: &Good| good.provider == number && good.place == place && good.token.signed == token.signed;
        if !self.good.iter().any(same) {
            self.good.push(Good { provider: number, token, place });
        }
        Ok(())
    }

    fn issuer(&self, number: usize) -> Option<&str> {
        self.config.providers.get(number).map(|provider| provider.issuer.as_str())
    }

    fn signed(&self, number: usize, token: &Token) -> Result<(), Stop> {
        let remote = match self.sources.get(number) {
            Some(Source::Local(Some(keys))) => return Ok(keys.verify(token)?),
            Some(Source::Local(None)) | None => return Err(Refusal::NoValidKeys.into()),
            Some(Source::Remote(remote)) => remote,
        };
        let waited = self.waited.iter().rev().find(|(of, _)| *of == number).map(|(_, ended)| *ended);
        let verify = |held: &Held| held.keys().verify(token);
        match remote.known(waited) {
            Known::Wanted => Err(Stop::Keys(number)),
            Known::Last(None) => Err(Refusal::Fetch.into()),
            Known::Last(Some(held)) => Ok(verify(&held)?),
            Known::Fresh(held) => match verify(&held) {
                // The set may have a new key since; once per request, and seldom for all of them.
                Err(Refusal::NoSuchKey) if waited.is_none() && remote.may_refresh() => {
                    Err(Stop::Keys(number))
                }
                verdict => Ok(verdict?),
            },
        }
    }
}
