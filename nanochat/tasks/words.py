"""English words for spelling and counting, and which of them are held out.

First those that many packages use in their documentation, the most frequent first, then what people ask to spell, then
everyday words. The commonest are single tokens of any vocabulary, which a model can only spell if it was shown how, so
none of them is held out, and none of those that people ask for: the held-out words are made of pieces of other words.
Where `task_data` has fetched a longer list, its words come between these. Promises: a word of this list is in the same
split with and without the other; which word is held out depends on the word alone. Standard library only.
"""

import random
from functools import cache
from itertools import chain, cycle, islice
from pathlib import Path

from nanochat.tasks.task import Split, held_out, in_random_order
from nanochat.tasks.word_file import fetched

TEST_SHARE = 0.2
FETCHED_TEST_SHARE = 0.01  # of the words that only the fetched list has: some 2,000 of 370,000 are enough to ask
EMBEDDED_EVERY = 5  # of the training words, where there are fetched ones
SHUFFLE_SEED = 1337
ASKED_AGAIN = 2  # times more often than others are those that people ask for


_LIST = """
that from with this will function import value used object which optional values default when data name list type number
only method class given each string into dictionary return using array file should input shape model same must have more
instance then module matrix specified passed graph where returned path parameter returns node output arguments than
first also other request float result order argument index parameters call objects nodes attributes provided code error
does time version example current attribute single names between case such text information size called format functions
test over instead column state elements whether context containing before axis both either types integer after
expression sequence token pass otherwise columns length source exception line defined element point following they their
details field variable body table based points user group files last within different without there algorithm multiple
like available methods target edge created uses being memory process operation event some bytes hint supported support
these keys form message valid original contains raised would create inputs keyword response mode options them arrays
directory during empty check base connection server results system been strings through already maximum found suitable
dataset match client sparse need equal access level command cannot local mapping block features samples scalar generated
directly parent random always fields along classes raise cache calls labels every right variables stream while device
root flow zero operations associated required specific shallow defaults include possible about immediate work those read
filter range copy weight behavior applied present here compute python feature means left image edges part label custom
vector because math sample reference added contain header collection expected make whose rows trace environment tree
warning task standard equivalent full real store kernel under window second option true database want existing dimension
calling position cases note computed most change decorator unique query against weights characters stored tests across
matching underlying another series positive start complex instances useful linear currently above step transform once
item exists times runs lines operator well limit ignored forward numbers axes errors provides needed your relative
setting items even pool entry additional package minimum rank registered manager back resource below statement
dimensions until deprecated search interval itself running self paths frame exist since just solution child allows usage
signature apply wrapper removed handle missing next structure including storage rather global private location timeout
scale takes sets supports pattern represents least modules flag execution bound symbols metric buffer generate precision
expressions converted service were mean status alpha still less validation library distance entries headers what binary
container session write seconds provide negative interface pairs internal mask description simple allowed load color
requests named batch considered update specify outputs allow shared hook implemented matches document nested else find
explicitly credentials invalid character arbitrary domain space future content common tags avoid thread resulting could
lists split never pair caller properties generator extension scope template works override inside take changes layout
iteration span models encoding active terms lower width many events large probability product except initial constraints
total examples groups loop returning desired protocol property known special control components recent convert backward
necessary callback done constructor appropriate offset cluster raises included messages rule unless frequency construct
section exactly particular constraint identifier strategy actual place style hints side signal sorted constant
coordinates complete integers fails absolute according host evaluation view definition account kind requested correct
passing rules handler settings around problem inverse lock intended requires might updated previous enabled count
iterations perform assumed metrics indicating loaded prefix bounds font iterator upper vectors saved define needs normal
greater represent alias tokens versions extra made users stack condition selected reduction similar application
computation typically parsed score loss parse unit worker engine ensure prompt closed written produce modified checks
creating three exact handling region supplied regular configured performed performance determine limits exceptions
changed final logic indicates cached recommended wrapped descriptor lambda difference positional various page queue
assigned compatible power public described includes display effect assert follows main testing evaluate explicit
component contents factor thus traces makes fixed remote parsing record very generic subset accepted external mapped
remove outside defines roots require starting symbol figure false depending padding treated accepts provider implement
direction ordered determined respect calculated registry keep best general corresponds handles square represented
actually long address build gives grid replaced script blocks specifies tables normalized numerical open wait numeric
syntax rotation close taken related entire partial sequences later disable network policy parser compiled references
sort identity small operators generation computing several evaluated validate comparison applies integral commands
select conditions socket term specifying zeros further creation seen proxy individual coordinate independent connections
categories helper accept date together replace workers whole tracking connected logging callers encoded logged pipeline
repository indicate byte installed slice tolerance omitted delete force parallel separate ordering internally partition
ones creates steps implements factory integration inference threshold fail port smaller sent correctly patterns
positions degrees transfer nothing larger failure adding tasks help finite loading send usually longer bucket parts sign
boundary fully decorated resources cost issue unchanged native processes checking holds states stop produced basis
attempt rate targets symmetric higher equality defining levels print resolved cause floating warnings addition appear
faster symbolic reading efficient consider writing better invoked built flags masked average conversion language static
imported shapes validator algorithms exit give dynamically schedule compare having save transformed deleted depends
derived previously register progress alternative chosen optionally retrieve skip computes sampling free filters height
processing estimate compiler obtained buffers constructed immediately temporary counts high seed safe transaction
executed chunk modify describing generating plain directories action dynamic threads core distributed stage checked
failed clause link drawn contained filesystem amount sure selection branch disabled routine identical entity payload
guaranteed constants basic refer leading however reduce stores adds records sizes scheme handled center possibly simply
occurs legacy prevent channel produces remaining certain tracing enable problems permissions inferred providing accessed
convention calculate working destination much fill execute look compile keeps recursively yield resolve permutation wrap
enough received cycle extensions abstract primary draw downstream tool member completed spans chain layer scaling
interpreted render know statistics literal codes retry capture initialized flat upon double semantics libraries caching
decision secret frames reason share hooks leaf systems chunks angle plugin disk show logs subject operand direct
compression gets continuous units release segment commit slot annotation owner none locally formatted reduced locations
emit therefore emitted background down responses indexing overridden mark formats join generates kept subsequent inner
anything properly ignore intervals satisfy replacement prior transition compared making extract relevant platform fast
await filled download passes flattened variant colors union agent correspond meaning children consistent approach
dependency bits digits reads something comment profile overrides maps becomes fraction driver listed copied resolution
issues program period occur definitions keyed spaces title able shown applying assignment factors encountered choice
normally updates completion speed starts reached minimal offsets infinite please canonical dispatch though logger
behaviour attached revision often statements criteria epoch depth patch contiguous report calculation project unknown
marker validated skipped receive onto transforms solve successful terminal matched doing scopes members smallest
magnitude distinct outer attempts generally utilities phase leaves keywords instantiate compilation tools words observed
plus neither followed purposes again duplicate repeated packages trees copies aliases division accuracy identified
optimal interpreter console analysis wrapping scaled refresh role rendered determines cast indexes verbose silently hold
cursor machine manually reset reverse controls origin bottom combined generators combination largest separated proper
converting shortest export performs trailing begin ratio identify strictly recorded continue good category ends logical
yields folder rendering processed become converts deviation concrete formula allowing captured loads overlap beginning
suffix unspecified declared detailed regardless lead guard stats filtering nearest four live routing annotations decimal
ensures certificate preserved increasing inserted applicable feedback opened follow assume embedding strict substring
important appended formatting taking refers track manage wraps denominator word debugging placed happens filtered lazy
automatic affect broadcast detected slots immutable archive sources upload verify initialize obtain enables typing
images fragment retrieved blocking printed duration undefined fetch tested vary highest raising forwarded queries
dependent belongs callbacks utility short packed referenced identifiers holding connect extended writes moment
arithmetic insert approximate implicitly precedence exponential things alignment candidate ways remain half estimated
stable exclude choose pickle incoming merged mappings cell loader falls efficiency streaming dropped entities handlers
placeholder priority started indexed populated retries among managed fake trying appears setup expect latest shell
bounding predicate replaces shows break recursive convenience likely grouped assign marked depend collected detect
splits expressed install infer satisfies cumulative latter mechanism assumes year purpose inspected whenever boundaries
merge implicit decode pending differ consumer exported necessarily ranges decorators themselves inline clients streams
finding segments family reuse responsible newly differences preserve strategies early dates backwards constructs append
scheduled preferred password building delta days consumed hidden collections wrong annotated moved looks reported
changing expansion complexity reserved head operands printing separator leave choices structures inspect aligned trigger
forms meant uniform permission limited fixture structured extracted third fall directive closure bind truncated frozen
storing vertical describes instruction plan sending modes sense arrow comments notation visible separately rest expanded
exponent consistency consecutive replacing heuristic writer reduces reports meta invoke pointer regions compressed
everything summary decoded rounding happen invocation scheduler sampled executing displayed channels removing fact
excluded formatter removes slices yielding minor deprecation partitions disables lengths waiting performing windows move
designed selects fewer others occurred optimized horizontal safely issued allocated fresh sorting design infinity
routines giving turn lowest area clear differs inherit potentially debug strongly composite counter simplify accurate
overwrite traversal month unused hand major improve flush primitive adjacent remainder guide hierarchy locale success
functional cycles come stopping indicated serving located history links slow listing overhead failures signed sides
completely zone evaluating duplicates shift globals truth unsupported periodic mixed unexpected escape places padded
multiplied wrappers thrown plugins splitting transport ascending lowercase imports increase efficiently products
embedded detection dummy descriptors delay tries prints identifying expensive attempting sections maximal drop mutable
translation ignoring views occurrence answer saving configure ready nonzero serve cleanup randomly relation surface
management alone significant ordinary triggered evaluates decoding measure loops executor suite effective centered
recursion cross deep globally interactive executable comparing physical signatures equals resolves reasons extend
guarantee cancelled readable iterate capacity layers batches opening security closing dots behave styles comes preserves
expired services launch operate respective encode normalize rejected templates unavailable wish typed documents consists
peer entirely resolver going digest maintain ambiguous probably conventions tied naming controlled mutation isolation
carries validators especially accessible kinds belong notes newline exclusive actions synchronous processors platforms
operating importing addresses builds occurrences formed acquired expects divided remains earlier quoted supply decide
containers accessing carry whereas referred enabling simplified standalone easily introduced incomplete failing reader
qualified detail expand runner conditional updating assuming markers calculating finish incorrect hardware twice
numerically uniquely diagram lazily manner inclusive programming older excluding exposed effectively beyond completes
sentinel reach serialize care ending schemes screen conjunction question scan email procedure policies terminated
exceeds behaves pure implies aware avoids redirect releases managing past owns snapshot spanning overwritten invokes
preserving presence adapter hence labeled finished signals associate exits clean restore originally forces quality
contract consisting visited usual guess propagation concurrent scripts requirement documented easier similarity finds
route stays sufficient framework corner composed trivial listener summed optimize master potential flexible renamed
combine mutated assumption caches cleared proposed receiving registers minimize aggregate slightly inherited strip
closest align persistent allocation looking established binding producing enforce backed indentation uniformly linked
natural whatever push minutes helpers languages blank easy reflect coverage encoder really unsigned patches propagate
robust away grouping strong determining validating termination receives overriding effects pointing stripped collect
rely providers recommend describe goes converter waits contexts joined descending claim builder supporting discarded
delimiter published cancel decreasing held treat rounded bundle connecting stops idea indent thing marks swap attach
portion maintained round recognized prefixed turns escaped recording practice copying tail terminate circular unpacked
deferred getting deletion searching critical sometimes temporarily keeping near hard variants mostly behind towards
secrets middle leaving explanation sensitive verbosity slower causes absent tracked breaks anchor measured sharing
semantic commonly emits reaches comparisons accepting acceptable expose renders lifecycle sessions quotes acts
meaningful interest expiration alternate domains adjust stay exchange pages almost serves markup convenient reflected
ties broken naive exceed monitor fits visit moving indicator usable reachable throw auxiliary validates wire post divide
affected struct bare proxies relies candidates letter notebook prefixes specialized exposes pick insertion quantity
unsafe violation ensuring casting tried alive reused bounded fetched downloaded lets opposite hosts measurement sends
directives switch specifier literals combining skips reject constrained invoking quoting retrieval bases deal ignores
databases periods mock identifies typical guarantees hide elsewhere declaration impact acquire propagated finder
referring covers consume overlapping adjusted counting expanding prevents achieved pools invariant unlike atomic
satisfied servers suppress weak decoder shutdown yielded letters world joining covered fragments expiry equally quote
fashion cover buckets begins multiply retain advanced iterating primarily helps overflow unbounded bodies trusted safety
matter succeeds inherits throughout correctness sequential software soon customize retained calculates walk newer
assertion entered compares border showing ever prepared lives pipe achieve attempted front inspection enforced selecting
finally entering breaking reversed rewrite requiring discussion holder ideal newlines released helpful coerced saves
increases triggers regarding exceeded manages consumption contrast locals notice filling selector visitor mutate flatten
prefer controlling exiting lifetime opaque submitted idle former nesting caught grammar shrink pull human catch routed
branches differently favor extracts wide unmodified accordingly room repeatedly measures signs slicing importable
browser counted deleting indented pretty modifying mismatch restored restricted trust extraction central removal overall
increment shorter stale dedicated interfaces buffered discovered customized modifies scoped closes advantage highly
assignments conflict development tell dump claims relatively clock manual shares defaulting collector parents processor
heuristics complicated compliance lost discovery delegates redundant repeat variation stopped restart isolated enclosing
timing blocked traverse unified startup affects parses reducing encrypted timer duplicated membership scenarios tracks
minus inheritance executes mainly limitations extends percentage upstream configuring searched dotted garbage wants
derive virtual clone encryption auto comparable declare populate partially uppercase moves resolving consumers similarly
reasonable distinguish edit enumeration theory race translate afterwards succeed pushed iterates author ancestor adapted
caused patched falling translated protocols char simpler specifiers successive paired skipping untrusted compact chance
hour although magic advance floor fine concatenate suggested ability improved persistence chunked mentioned fractions
digit initially five supposed maintains risk eventually production chooses granted involved ordinal arbitrarily
situations finalized fetching turned sockets establish terminates drops conflicts reporting throws rename tells
conversions accumulated underscore unnecessary transitions rejects configures routes comma essentially checker emitting
chained hours eagerly declaring writable increased goal overwriting machinery expire omit outcome belonging complement
continues modern inject preceding purely opposed malformed compound poll secure underscores retrieving parallelism
compiles commas lies ownership consumes straight stability managers destroyed intent evenly said substitute interpret
compliant identically brackets implied defers existence quite appearance ended exhausted apart reconstruct randomness
rewritten costs capability elapsed transient embed ultimately persist quickly registering knows delivered cyclic demand
restriction rotate merging interaction varies clears treats alternating analogous shortcut whichever nature looked
resets encodes benefit little understand appending detects considering parentheses referencing operates ahead prepare
owning visibility mount locking spread queued behaviors interact denote leads alongside workaround dealing iterated
permitted separators chars anywhere chains walks coming alter structural enter locks validity sees codebase minute
maintaining conflicting exited originating indirect capable warn dropping fork insensitive years detecting shorthand
silent verified interacting forced black injected feed locked situation reload escapes mirror unbound counterpart
recently collecting predicates preventing choosing scenario obtaining coerce unable recover closer bypass stub avoiding
dashes puts protected assigning resp accesses nice avoided paragraph extremely miss redirects vertically displays
displaying detached searches opts triple innermost combines retried sibling coercion site styling percent exports
externally fixtures atomically redirection collisions meet dispatching knowledge basically backslash tabs impossible
explained consist conform analyze recurse involves untouched cleaned merely deletes buffering limiting simplest
consuming shall seems outgoing mirrors dispatches thought inserting license substituted difficult decorate discouraged
upgrade collects despite encodings distribute checkers considers initializes outermost classic abort yourself sorts
preference exporting setter rare precisely companion overview slash worth owned internals proceed expires statically
white arrives historical nearly involve extracting inheriting unix mandatory succeeded careful fires rebuild carrying
unpack programs truncation mechanisms precise inspired marking pointers publish queried decides suppressed roughly crash
listening polling flushed soft mutating assigns anyway primitives pieces chaining longest legal predefined limitation
visual locate asked reliable augmented merges unions mutually somewhat delegate forwards descriptive querying says
contribute treatment excludes unlimited allowable invocations enforces inclusion disabling terminating anymore restores
official causing sized solely unrelated sleep presented retrieves anonymous delimited offers finishes reaching treating
altered universal derives transparent occurring fixes inserts technique introduce supplying backing reusing installs
mimic fills improves matters accumulate late concept repeats traditional reflects surrounding verbatim enclosed targeted
descendants inspecting dispatched party relying requesting caution facilitate lacks slashes proceeds imply connects
recognize restrict threading delimiters lose gracefully forcing closely home quiet piece narrow iterators tagged rights
enters undo desirable incremented course perfectly superset needing natively ambiguity colon truncate rich separation
indirectly linking accommodate forever compose lightweight seek bugs suffixes interesting incorrectly activated
stripping suppose copyright texts thin irrelevant stands triggering expands variety lack supplies flexibility protection
propagates appends unaffected manipulate frequently exclusively normalizes login think notify textual unlikely verifies
overwrites wins aspects unwrapped promote discard ancestors respond switching encounters triples interested came
sensible descendant leftmost respects perspective touch confused authors extending accounts surfaces opens traversing
delayed retains omits recreate portions simplicity popped timed seem stuff phrase hang grows scratch perhaps unpacking
person maybe happened possibility contextual distinction defer leak developers streamed understood indeed verifying
essential scanning abstraction backslashes catches clearing wider multi repeating readability accounting permit decodes
diagnostic drive differing bigger translating everywhere light truthy pointed compress preceded hyphens switches
releasing discover carefully concerned subtract separating redirected offer dash duplication strips huge popular obvious
aborted gone respected picked numbering enhanced sole dumped examine translates exposing reliably wherever conforms
collapsed grow wanted introduces ideally illegal expecting dumps inferring discards renaming omitting quick effort
intact braces normalizing mimics toward catching life beforehand readers fairly developer existed preparation hits
punctuation earliest protect restoring invalidate reuses practical fancy friendly confirm adjustments recreated unusable
placing tricky scanned specially flushes people encounter cancels simulate uniqueness portable oldest largely completing
smart absence disallowed intend remember designated printable asks adjusts notified truly rarely likewise additions
comply suggest familiar somewhere heavily assertions fixing initiated besides recognizes intentional attaches inherently
discarding someone nicely became lowercased handy adjusting forbidden hack ourselves cleanly adhere apple apricot
avocado banana blackberry blueberry cherry coconut cranberry grape grapefruit kiwi lemon lime mango melon nectarine
orange papaya peach pear pineapple plum pumpkin raspberry strawberry watermelon almond bacon bagel basil bean beef beer
biscuit bread broccoli butter cabbage cake candy carrot cauliflower celery cereal cheese chicken chili chocolate
cinnamon coffee cookie corn cream cucumber dinner dough egg fish flour garlic ginger ham honey jam juice ketchup lamb
lentil lettuce lobster lunch milk mushroom mustard noodle oatmeal olive omelette onion oyster pancake parsley pasta
pastry peanut pepper pizza popcorn pork potato pretzel pudding radish rice salad salmon salt sandwich sauce sausage
shrimp soup spinach steak sugar supper syrup tea toast tomato tuna turkey vanilla vinegar waffle walnut wheat yogurt
alligator animal ant antelope badger bat bear beaver bee beetle bird bison buffalo butterfly camel canary cat
caterpillar cheetah chimpanzee cow coyote crab cricket crocodile crow deer dinosaur dog dolphin donkey dove dragon duck
eagle elephant falcon ferret flamingo fox frog gazelle giraffe goat goose gorilla grasshopper hamster hare hawk hedgehog
hippopotamus horse hyena iguana insect jaguar jellyfish kangaroo kitten koala ladybug leopard lion lizard llama magpie
mammal monkey mosquito moth mouse octopus ostrich otter owl panda panther parrot peacock pelican penguin pheasant pig
pigeon pony puppy rabbit raccoon rat raven reptile rhinoceros robin rooster scorpion seal shark sheep snail snake
sparrow spider squirrel swan tiger toad tortoise turtle vulture walrus weasel whale wolf woodpecker worm zebra ankle arm
beard brain cheek chest chin ear elbow eye eyebrow face finger foot forehead hair heart heel hip jaw knee knuckle leg
lip lung muscle neck nose shoulder skeleton skin skull stomach throat thumb toe tongue tooth wrist aunt baby boy brother
cousin daughter doctor farmer father fireman friend girl grandfather grandmother husband king knight lawyer mayor mother
neighbor nephew niece nurse painter pilot pirate plumber poet policeman prince princess queen sailor scientist sister
soldier son student tailor teacher uncle waiter wife woman airplane ambulance balloon bicycle boat bridge bus canoe
carriage ferry garage harbor helicopter highway journey motorcycle passenger pavement railway rocket sailboat scooter
station street submarine taxi ticket tractor traffic tram travel trolley truck tunnel vehicle voyage wagon wheel yacht
autumn blizzard breeze climate cloud desert earthquake fog forest glacier gravel hill hurricane iceberg island jungle
lake lightning meadow moon mountain mud ocean pebble planet pond rain rainbow river rock sand sea shore sky snow spring
star storm summer sun sunshine thunder tornado valley volcano water waterfall wave weather wind winter balcony basement
bathroom bedroom bench blanket bottle bowl broom cabin candle carpet castle ceiling chair chimney church closet cottage
couch cradle cup cupboard curtain cushion door drawer faucet fence fridge furniture garden glass hammer house jar jug
kettle kitchen knife ladder lamp lawn mattress microwave mug needle oven pan pillow plate porch pot refrigerator roof
saucer scissors shelf shovel sink soap sofa spoon staircase stove teapot toilet towel umbrella vase wall wardrobe
acrobat alphabet artist ballet baseball basketball birthday camera cartoon cello chess circus clarinet concert crayon
dance doll drum festival flute football game golf guitar hobby hockey holiday magazine marathon melody museum music
newspaper novel opera orchestra paint pencil photograph piano picnic poem puppet puzzle racket rhythm rugby saxophone
sculpture skating soccer song story swimming tennis theater trophy trumpet violin volleyball apron belt blouse boot
bracelet button cap cape cloak coat collar cotton diamond dress fabric glove gown hat helmet jacket jeans jewel leather
mitten necklace pajamas pocket purse ring robe sandal scarf shirt shoe silk skirt sleeve sock suit sweater trousers
velvet wallet wool zipper afternoon april august breakfast calendar century december evening february friday january
july june march midnight monday morning november october saturday september sunday thursday tomorrow tonight tuesday
wednesday weekend yesterday angry awake bitter blue brave brown calm careless cheerful clever cloudy cold crazy crimson
cruel curious dizzy dusty eager elegant faithful famous fearless fierce foggy funny generous gentle gigantic golden
graceful grateful gray green grumpy handsome happy heavy honest hungry icy jealous jolly lonely loud lovely lucky messy
mighty muddy nervous noisy patient peaceful pink pleasant polite proud purple rainy red rough rude sad salty scared
shiny shy silly silver sleepy slippery smooth sour spicy stormy strange sunny sweet tall tasty tender thirsty tiny tired
ugly violet warm weary wet wild wise wonderful wooden yellow young argue bake balance bark bathe believe blink boil
borrow bounce breathe bring brush bury celebrate chase chew clap climb comb cook cough crawl cry deliver dig disappear
discuss dive dream drink eat embrace enjoy explore fear fight fold forget forgive giggle grab greet grin hate hug hurry
imagine invent invite juggle jump kick kiss kneel knit knock laugh learn lend lick listen love melt mumble nod obey peel
plant play polish pour pray promise punish relax repair rescue ride row scream shiver shout sing slide smell smile
snatch sneeze sniff snore speak spell spill squeeze stare steal stretch stumble sweep swim tease teach thank tickle
tiptoe tremble tumble twist vanish wander wash weep whisper whistle wink wipe wonder worry yawn yell accident adventure
ambition bakery battle bell blossom breath bubble cave charm coin comfort courage crowd crown curiosity danger darkness
diary dust electricity energy feather fire flame flavor flower freedom ghost giant gift glory gold gravity happiness
harvest health hospital hunger ice kingdom laughter legend magnet market medicine miracle money monster mystery noise
oxygen palace parade peace perfume petal poison postcard prison prize quarrel rhyme riddle ribbon rumor school shadow
sorrow sound spark statue steam strength surprise sword telephone telescope television temper temple thorn throne
thunderstorm tower toy treasure tribe tulip twilight university vacation victory village vitamin whisker wisdom wizard
butterscotch commander encyclopedia engineer entertain experience gentleman hesitate imagination intelligent laboratory
literature mathematics messenger microscope millionaire mischief neighborhood passionate personality philosopher
politician possession professor restaurant satellite scarecrow secretary skyscraper spaghetti specialist supermarket
sympathy temperature tragedy tremendous typewriter unhappy wheelbarrow whirlpool
"""
_ASKED = """
strawberry banana keyboard mississippi necessary accommodate rhythm bookkeeper beautiful restaurant definitely
separate embarrass receive believe weird friend tomorrow february wednesday business chocolate elephant computer hello
world cheese coffee pizza apple orange pineapple raspberry blueberry blackberry cherry tomato potato cucumber carrot
broccoli spaghetti lasagna mozzarella balloon raccoon kangaroo giraffe hippopotamus rhinoceros crocodile alligator
butterfly dragonfly caterpillar grasshopper penguin squirrel rabbit puppy kitten parrot tiger monkey dinosaur unicorn
dragon butter lettuce pepper vanilla cinnamon cappuccino espresso letter letters spelling grammar language dictionary
encyclopedia library committee occurrence occasion success successful possess possession professor address addresses
assess assessment millennium parallel occurred recommend recommendation questionnaire entrepreneur bureaucracy
conscience conscious conscientious pneumonia psychology physics mathematics chemistry biology philosophy pharaoh
pharmacy diarrhea hemorrhage liaison lieutenant maintenance maneuver medieval miscellaneous mischievous neighbor
noticeable perseverance pronunciation privilege queue rendezvous schedule secretary sincerely souvenir surprise
thorough threshold through though thought daughter laughter neighbour colour favourite favorite tongue twelfth tyranny
unnecessary vacuum vehicle vegetable villain wrestle yacht zucchini knowledge knife knee knight island answer autumn
column doubt debt receipt castle whistle listen scissors science scientist scene muscle
supercalifragilisticexpialidocious antidisestablishmentarianism onomatopoeia abracadabra hallelujah chihuahua google
facebook amazon microsoft nanochat chatgpt python javascript java internet website password email london paris berlin
germany france spain italy england america canada mexico brazil china japan india australia africa europe philadelphia
massachusetts connecticut tennessee california florida texas washington chicago michael jennifer elizabeth alexander
christopher matthew anna emma hannah otto bob jessica rebecca william philip philippe sarah daniel david jonathan
catherine isabella mum mom dad mother father brother sister grandmother grandfather family birthday christmas
halloween thanksgiving easter summer winter spring school teacher student homework kindergarten university college
football basketball baseball soccer tennis hockey swimming running bicycle airplane helicopter motorcycle telephone
television refrigerator umbrella envelope window door house garden kitchen bathroom bedroom pillow blanket mirror
bottle glass spoon jewelry jewellery aluminum gorgeous handsome pretty happy happiness funny sunny rainy cloudy
thunderstorm lightning tornado hurricane earthquake volcano mountain valley ocean river forest desert planet universe
astronaut rocket saturn jupiter mercury bubble puddle giggle tickle wiggle noodle poodle book moon room tree bee see
feet teeth assassin aggressive bassoon cocoon tattoo buffalo coconut papaya avocado mango lemon watermelon grapefruit
rhubarb radish parsley cauliflower asparagus mayonnaise ketchup mustard croissant baguette sandwich hamburger sausage
wonderful amazing awesome fantastic excellent congratulations goodbye welcome please sorry thanks love peace freedom
yes no cat dog fish bird cow horse sheep pig goat mouse rat lion bear wolf fox zebra whale shark dolphin octopus
yellow purple green blue red black white brown pink gray silver gold one two three four five six seven eight nine ten
eleven twelve hundred thousand million rhyme sleep dream night light right bright weight height freight people because
which their there where were again enough until truly really usually probably especially different interesting
important difficult easy minute hour second today yesterday monday tuesday thursday friday saturday sunday january
march april june july august september october november december
"""
_COMMONEST = 1200  # of the list
KEPT = tuple(dict.fromkeys([*_LIST.split()[:_COMMONEST], *_ASKED.split()]))  # never held out
WORDS = tuple(dict.fromkeys([*KEPT, *_LIST.split()]))


def words(split: Split, data_dir: Path | None = None) -> tuple[str, ...]:
    """The words of a split, with those of the list in `data_dir` where there is one; held-out ones have 5 to 9 letters.

    Of training words with a list, every fifth is an embedded one, in turn and so again and again: they are what people
    ask for. Fetched words come in no order. So the first few are a fair sample of what a mixture gets to.
    """
    path = fetched(data_dir)
    return _embedded(split) if path is None else _with_fetched(path)[split]


@cache
def _embedded(split: Split) -> tuple[str, ...]:
    held = {word for word in WORDS[len(KEPT) :] if _held_out(word, TEST_SHARE)}
    if split == "test":
        return tuple(in_random_order(held))
    asked = [word for word in KEPT if word in frozenset(_ASKED.split())]
    return (*(word for word in WORDS if word not in held), *asked * ASKED_AGAIN)


@cache
def _with_fetched(path: Path) -> dict[Split, tuple[str, ...]]:
    """Both splits; 370,000 words take less than half a second."""
    known = set(WORDS)
    more = [word for word in path.read_text(encoding="ascii").split() if word not in known]
    held = {word for word in more if _held_out(word, FETCHED_TEST_SHARE)}
    train = [word for word in more if word not in held]
    random.Random(SHUFFLE_SEED).shuffle(train)
    common, rest = cycle(in_random_order(_embedded("train"))), iter(train)
    groups = iter(lambda: tuple(islice(rest, EMBEDDED_EVERY - 1)), ())
    mixed = chain.from_iterable((next(common), *group) for group in groups)
    return {"train": tuple(mixed), "test": tuple(in_random_order([*_embedded("test"), *held]))}


def _held_out(word: str, share: float) -> bool:
    return 5 <= len(word) <= 9 and held_out(f"word {word}", share)
