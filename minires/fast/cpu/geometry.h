/* Which pixels a convolution's kernel meets, along one axis.

   A place of the result sees its source through the taps of the kernel. Going forward the source is the image: place p sees
   pixel p * stride + tap * dilation - pad through a tap. Going back the source is the gradient of the output and the
   result that of the image, and taps are counted from the far end, so that sources ascend with taps both ways.
   Places that see the same taps at the same distances form a group: the inside of a map is one, each edge another. */

struct side {
    int size, places, taps, stride, dilation, pad, backward;
};

struct group {
    int taps, places;
    int *tap, *step;     /* each tap that meets a pixel, and how far its source lies behind the first one's */
    int *place, *source; /* each place, and where its first tap's source is */
};

struct axis {
    int groups;
    struct group *group;
    int *memory;
};

static int source_of(const struct side *s, int place, int tap) {
    int at = s->backward ? place + s->pad - (s->taps - 1 - tap) * s->dilation : place * s->stride + tap * s->dilation - s->pad;
    if (at < 0) return -1;
    if (s->backward) {
        if (at % s->stride) return -1;
        at /= s->stride;
    }
    return at < s->size ? at : -1;
}

static int alike(const struct side *s, int a, int b) {
    int known = 0, apart = 0;
    for (int tap = 0; tap < s->taps; tap++) {
        int i = source_of(s, a, tap), j = source_of(s, b, tap);
        if ((i < 0) != (j < 0)) return 0;
        if (i < 0) continue;
        if (known && j - i != apart) return 0;
        known = 1;
        apart = j - i;
    }
    return 1;
}

static struct axis make_axis(struct side s) {
    struct axis axis = {0};
    axis.group = calloc(s.places, sizeof *axis.group);
    axis.memory = malloc(sizeof(int) * s.places * (3 + 2 * (size_t)s.taps));
    int *of = axis.memory, *next = of + s.places, last = 0;
    for (int place = 0; place < s.places; place++) {
        int found = -1;
        for (int i = 0; i < axis.groups && found < 0; i++) {
            int g = (last + i) % axis.groups; /* mostly the one before */
            if (alike(&s, axis.group[g].places, place)) found = g; /* `places`: its first, for now */
        }
        if (found < 0) {
            found = axis.groups++;
            axis.group[found].places = place;
        }
        of[place] = last = found;
    }
    for (int g = 0; g < axis.groups; g++) {
        struct group *group = &axis.group[g];
        int first = group->places;
        group->tap = next;
        group->step = next += s.taps;
        next += s.taps;
        for (int tap = 0; tap < s.taps; tap++) {
            int source = source_of(&s, first, tap);
            if (source < 0) continue;
            group->tap[group->taps] = tap;
            group->step[group->taps++] = source;
        }
        group->places = 0;
        group->place = next;
        for (int place = first; place < s.places; place++)
            if (of[place] == g) *next++ = place, group->places++;
        group->source = next;
        for (int i = 0; i < group->places; i++)
            *next++ = group->taps ? source_of(&s, group->place[i], group->tap[0]) : 0;
        for (int i = group->taps - 1; i >= 0; i--) group->step[i] -= group->step[0];
    }
    return axis;
}

/* Which of the taps that a group sees is this one; -1: none. */
static int find_tap(const struct group *group, int tap) {
    for (int i = 0; i < group->taps; i++)
        if (group->tap[i] == tap) return i;
    return -1;
}

/* The side of a source with zeros around it, `before` of them in front: every place sees all taps. Strides only forward. */
static struct side with_zeros(struct side s, int *before) {
    int reach = (s.taps - 1) * s.dilation;
    *before = s.backward ? reach - s.pad : s.pad;
    s.pad = s.backward ? reach : 0;
    s.size = (s.places - 1) * s.stride + reach + 1;
    return s;
}

static void free_axis(struct axis *axis) {
    free(axis->group);
    free(axis->memory);
}
