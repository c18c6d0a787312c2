"""Make assets/imagenet_kinds.txt: for each class of ImageNet-1k, in plain words, the kind of thing it is.

    apt install wordnet-base
    python scripts/make_kinds.py [/usr/share/wordnet/data.noun]

WordNet 3.0 knows for every noun what it is a kind of (its hypernyms), and ImageNet's ids are WordNet's
offsets. Below stand the kinds that a person would name at a glance, each with the nouns that it begins at. A
class belongs to the kind of its nearest noun among its hypernyms, itself included; of several at the same
distance the kind that stands first here decides. What belongs to none is "other".
"""

import sys
from collections import Counter
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"
WORDNET = Path("/usr/share/wordnet/data.noun")
OTHER = "other"

KINDS = {
    "dog": "n02084071",
    "wolf, fox or other wild dog": "n02083346 n02117135",
    "cat": "n02121808",
    "big cat or wild cat": "n02120997",
    "bear or panda": "n02131653 n02510455 n02509815",
    "monkey or ape": "n02469914",
    "elephant": "n02503517 n01871265",
    "horse or zebra": "n02374451 n02391049",
    "pig": "n02395003",
    "cow, sheep or other hoofed animal": "n02370806",
    "rabbit or rodent": "n02323449 n02329401",
    "whale, seal or dolphin": "n02062017",
    "other mammal": "n01861778",
    "bird": "n01503061",
    "fish": "n02512053",
    "snake": "n01726692",
    "lizard or crocodile": "n01661818",
    "turtle": "n01661592",
    "frog or salamander": "n01627424",
    "butterfly or moth": "n02274024",
    "spider or scorpion": "n01769347",
    "insect": "n02159955 n01767661 n03530642",
    "crab, lobster or other shellfish": "n01974773 n01940736",
    "other sea animal": "n01905661 n09256479 n01768244",
    "mushroom": "n12992868 n07734744",
    "flower or other plant": (
        "n11939491 n12057211 n11879895 n07730033 n07802026 n13133613 n12144580 n12768682 n12267677 n12620546"
    ),
    "fruit": "n07705931 n13134947",
    "vegetable": "n07707451",
    "bread or pastry": "n07622061 n07684084 n07693725 n07695742",
    "dessert": "n07609840 n07836838",
    "dish": "n07557434 n07556970 n00021265 n07555863 n07566863 n07860988 n07565083 n07810907 n07809368",
    "cup, glass or drink": (
        "n03063599 n02823750 n03443371 n07930864 n07920052 n07892512 n07932039 n03733805 n07881800"
    ),
    "bottle, jug or can": "n02876657 n04560804 n04579145 n03950228 n03764736 n02795169 n04049303",
    "pot, pan or kettle": "n03990474 n03400231 n04596742 n03259280 n04398044 n03063689 n02939185 n03133878",
    "bowl, plate or vase": (
        "n03775546 n04263257 n04522168 n03786901 n02815834 n03920288 n04476259 n03961711 n04553703 "
        "n02909870 n03991062 n04493381"
    ),
    "kitchen tool": (
        "n03621049 n03041632 n04597913 n03633091 n04270147 n03109150 n02951585 n04332243 n04131690 n03062245"
    ),
    "household appliance": (
        "n02729837 n04554684 n04330267 n04265275 n03271574 n04040759 n03483316 n04111531 n03297495"
    ),
    "chair, sofa or bench": (
        "n04161981 n02828884 n03891251 n04344873 n04429376 n03376595 n04099969 n02791124"
    ),
    "bed or cradle": "n02818832 n02766320 n03388549 n03938244 n04033995 n04235860",
    "table or desk": "n04379243 n03201208 n03179701 n03982430",
    "cupboard or shelf": (
        "n02870880 n03016953 n03018349 n04550184 n03742115 n03290653 n03337140 n03014705 n04125021"
    ),
    "curtain, blind or rug": (
        "n03151077 n02851099 n04151581 n04118021 n04209239 n04418357 n03998194 n03223299 n04590129 "
        "n03347037 n04589890 n04201297 n03788365"
    ),
    "bath or toilet": "n02808440 n04447861 n02808304 n15075141 n03887697 n04254120 n03970156 n03207743",
    "lamp or candle": (
        "n04263760 n03636248 n02948072 n03637318 n04456115 n03590841 n04286575 n03666591 n03729826 n04380533"
    ),
    "clock or watch": "n04437953 n03544143",
    "computer": (
        "n03082979 n03085013 n04505470 n03793489 n03782006 n04264628 n03777754 n03492542 n04152593 "
        "n06359193 n03916720 n03602883"
    ),
    "telephone": "n04401088 n02992529",
    "television, radio or music player": (
        "n04404412 n04041544 n03584254 n02979186 n02988304 n04392985 n03691459 n02978881 n04074963 "
        "n03529860 n03759954 n04009552"
    ),
    "camera or optical instrument": (
        "n02942699 n03852280 n02841315 n03657121 n03692522 n04044716 n04258138 n04356056 n04355933"
    ),
    "other machine or electrical device": (
        "n03278248 n02977058 n04525305 n04243546 n03425413 n03857828 n04372370 n03065424 n03929660 "
        "n02666196 n03841143 n02794156 n03706229 n04141975 n03843555 n03208938 n04179913 n03240683 "
        "n03992509 n03924679"
    ),
    "guitar or other string instrument": "n04338517 n02803934 n03495258",
    "piano or organ": "n03614532 n03452741 n04515003 n03854065",
    "wind instrument": "n04586932 n03494278 n02672831 n04579432",
    "drum or other percussion instrument": "n03915437 n03250847",
    "tool": (
        "n04451818 n03489162 n03498962 n03000684 n03995372 n04154565 n02906734 n04208210 n03481172 "
        "n02966687 n04118776 n03908714"
    ),
    "weapon or armor": (
        "n04565375 n03467984 n02739668 n04192858 n02916936 n03929855 n03773504 n04008634 n02895154 "
        "n03527444 n04141327 n03467068 n03146219 n03000247"
    ),
    "ball": "n02778669 n03134739",
    "sports equipment": (
        "n03414162 n04285146 n03472232 n02790996 n03255030 n04228054 n04019541 n03888257 n04251144 "
        "n03873416 n04039381 n02777292"
    ),
    "toy or game": "n03964744 n04399382 n03598930 n03944341 n06785654 n04371774 n03733281 n02966193",
    "car": "n02958343 n03594945 n04285008 n03445924 n03444034 n02974003 n02965783",
    "truck or van": "n04490091 n04520170 n02704792 n04065272 n03776460 n04252225",
    "bus or tram": "n02924116 n04335435 n04487081 n03769881",
    "train": "n04468005 n03684823 n02917067 n03895866 n03393912 n04310018 n03272562",
    "bicycle or motorcycle": (
        "n02834778 n03790512 n03785016 n03791053 n04482393 n04509417 n02835271 n03792782"
    ),
    "cart or sled": (
        "n02970849 n04543158 n04235291 n04204347 n02797295 n03538406 n03599486 n03868242 n02860847 "
        "n03218198 n04336792"
    ),
    "tractor or tank": (
        "n04465501 n04389033 n03496892 n03967562 n04428191 n03384352 n03478589 n04252077 n03126707"
    ),
    "airplane or spacecraft": "n02686568 n04266014 n04552348 n02692877 n02690373 n02782093 n04592741",
    "boat or ship": (
        "n02858304 n04194289 n04128837 n04530566 n04347754 n03447447 n02951358 n04606251 n03874293"
    ),
    "tower or monument": (
        "n04460130 n03743902 n04486054 n03837869 n04458633 n02814860 n04562935 n02892201 n03355925 "
        "n03903868 n04346328"
    ),
    "church or temple": "n03953416 n03781244 n02699494 n02825657 n03788195",
    "house or building": (
        "n02913152 n03259505 n02793495 n03220513 n04105068 n04417672 n04435653 n02859443 n02980441 "
        "n03877845 n03457902 n04005630 n03661043 n02727426 n02843684 n04613696 n03042490 n03032252 "
        "n04523525 n03899768 n03697007"
    ),
    "shop or restaurant": "n04202417 n03748162 n02776631 n04081281 n03461385 n04462240",
    "bridge or dam": "n02898711 n03160309 n02894605 n03216828 n03933933",
    "fence, gate or door": "n03327234 n02788148 n04239074 n04501370 n03459775 n04326547",
    "street sign, light or fountain": (
        "n06794110 n06874185 n03710193 n03388043 n03717622 n03891332 n04296562 n04149813 n03733131"
    ),
    "dress or skirt": "n03236735 n04230808 n03450230 n03534580 n02667093 n03617480 n02669723 n04532106",
    "coat, shirt or trousers": (
        "n03419014 n03057021 n03863923 n03595614 n02963159 n04370456 n03594734 n04350905 n03763968 "
        "n03877472 n02730930 n03188531 n03404251 n03980874 n03045698 n03630383 n04479046"
    ),
    "swimwear or underwear": "n04371563 n02892767 n03710637 n02837789 n03710721 n04371430",
    "shoe or sock": "n03380867 n03381126 n04199027 n03540267 n03026506 n04254777",
    "hat, helmet or mask": (
        "n03502509 n03724870 n03379051 n04209133 n02807133 n03787032 n04229816 n03424325 n03868863 "
        "n04584207 n03127747"
    ),
    "tie, scarf, glove or jewelry": (
        "n03816005 n03775071 n03814906 n03325584 n04325704 n03476684 n02910353 n03814639 n03623198 n02834397"
    ),
    "bag, basket or box": (
        "n02773037 n02801938 n02883344 n04204238 n03482405 n02769748 n04548362 n03871628 n03127925 "
        "n02747177 n02971356 n03291819 n03958227 n03935335 n03908618"
    ),
    "pen, book or paper": "n03906997 n04608567 n06596364 n07248320 n02840245 n04116512 n03876231 n03658185",
    "cosmetics or medicine": (
        "n04447443 n03676483 n03314780 n02786058 n04357314 n03937543 n04376876 n04317175 n03825788"
    ),
    "fastener, lock or rope": (
        "n03323703 n02999410 n03627232 n03532672 n03874599 n03075370 n04162706 n03803284 n02877765 n04067472"
    ),
    "mountain, coast or other landscape": (
        "n09287968 n09366317 n09193705 n09246464 n09288635 n09332890 n09399592 n09421951 n09428293 "
        "n09468604 n09472597"
    ),
    "person": "n00007846",
}


def read_hypernyms(path: Path) -> dict[str, list[str]]:
    """The hypernyms of every noun, by WordNet id ("n02084071"); the format is described in wndb(5WN)."""
    hypernyms = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields = line.partition("|")[0].split()
        first_pointer = 5 + 2 * int(fields[3], 16)
        pointers = [fields[start : start + 3] for start in range(first_pointer, len(fields) - 3, 4)]
        hypernyms[f"n{fields[0]}"] = [
            f"n{offset}" for symbol, offset, part in pointers if symbol in ("@", "@i") and part == "n"
        ]
    return hypernyms


def kind_of(synset: str, hypernyms: dict[str, list[str]]) -> str:
    """The kind of the nearest noun that a kind begins at."""
    starts = {noun: kind for kind, nouns in KINDS.items() for noun in nouns.split()}
    level = [synset]
    while level:
        reached = {starts[noun] for noun in level if noun in starts}
        if reached:
            return next(kind for kind in KINDS if kind in reached)
        level = [above for noun in level for above in hypernyms[noun]]
    return OTHER


def main() -> None:
    """Write the table and print how many classes each kind has."""
    hypernyms = read_hypernyms(Path(sys.argv[1]) if len(sys.argv) > 1 else WORDNET)
    unknown = [noun for nouns in KINDS.values() for noun in nouns.split() if noun not in hypernyms]
    if unknown:
        sys.exit(f"WordNet does not hold {', '.join(unknown)}")
    synsets = (ASSETS / "imagenet_synsets.txt").read_text(encoding="ascii").split()
    kinds = [kind_of(synset, hypernyms) for synset in synsets]
    (ASSETS / "imagenet_kinds.txt").write_text("".join(f"{kind}\n" for kind in kinds), encoding="ascii")
    counts = Counter(kinds)
    for kind in (*KINDS, OTHER):
        print(f"{counts[kind]:4}  {kind}")


if __name__ == "__main__":
    main()
